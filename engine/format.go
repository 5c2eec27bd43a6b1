package engine

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/farside-storage/farside/ring"
)

// NewUUID makes a random (version 4) UUID.
func NewUUID() UUID {
	var u UUID
	rand.Read(u[:]) // never fails: crypto/rand ends the program instead
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// Format makes an empty pool of devs, whatever they held: the caller must check that. The first device also holds the
// journal and the tables. A crash in the middle leaves devices that are no pool.
func Format(devs ring.Devices, o FormatOptions) (UUID, error) {
	if o.NewUUID == nil {
		o.NewUUID = NewUUID
	}
	if len(o.Name) > MaxNameBytes {
		return UUID{}, fmt.Errorf("pool name of %d bytes: at most %d", len(o.Name), MaxNameBytes)
	}
	z, devices, err := planLayout(devs.Info(), o)
	if err != nil {
		return UUID{}, err
	}
	sb := &superblock{version: FormatVersion, sequence: 1, pool: o.NewUUID(), created: o.Created,
		name: o.Name, zones: z, devices: devices}
	for i := range sb.devices {
		sb.devices[i].id = o.NewUUID()
	}
	return sb.pool, inOwnThread(func() error { return format(devs, sb) })
}

// inOwnThread runs f on a goroutine of its own: opening a queue locks a goroutine to its thread.
func inOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return <-done
}

func format(devs ring.Devices, sb *superblock) (err error) {
	arena, err := ring.NewArena(64 * BlockSize)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, arena.Close()) }()
	io, err := newControlIO(devs, 16, arena)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, io.q.Close()) }()
	buf := arena.Bytes()
	for d := range sb.devices { // whatever pool was here is none from now on
		if err := writeSuperblocks(io, buf, d, func(int) []byte { return make([]byte, BlockSize) }); err != nil {
			return err
		}
	}
	if err := io.flush(); err != nil {
		return err
	}
	for checkpoint := range uint64(2) { // both slots hold a root from the start: whatever else is found there is damage
		if err := writeFirstRoot(io, buf, sb, checkpoint); err != nil {
			return err
		}
	}
	if err := io.flush(); err != nil {
		return err
	}
	for d := range sb.devices {
		own := *sb
		own.device, own.index = sb.devices[d].id, uint32(d)
		if err := writeSuperblocks(io, buf, d, own.encode); err != nil {
			return err
		}
	}
	return io.flush()
}

// writeFirstRoot writes the root of an empty pool.
func writeFirstRoot(io *controlIO, buf []byte, sb *superblock, checkpoint uint64) error {
	r := &root{checkpoint: checkpoint, tail: journalPos{seq: 1}}
	body := r.encodeBody()
	length := len(body)
	body = padBody(body)
	n := 1 + len(body)/BlockSize
	copy(buf, r.encodeHeader(sb.pool, body, length))
	copy(buf[BlockSize:], body)
	return io.write(0, sb.zones.rootSlot(checkpoint%2), buf[:n*BlockSize])
}

func writeSuperblocks(io *controlIO, buf []byte, device int, encode func(copyIndex int) []byte) error {
	for i := range superblockCopies {
		copy(buf[:BlockSize], encode(i))
		if err := io.write(device, uint64(i*superblockStride), buf[:BlockSize]); err != nil {
			return err
		}
	}
	return nil
}
