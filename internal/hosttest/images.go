package hosttest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/farside-storage/farside/internal/nbdclient"
)

// Image reads a whole export.
func Image(address, export string) (data []byte, err error) {
	err = with(address, export, func(c *nbdclient.Client) error {
		data = make([]byte, c.Size())
		_, err := c.ReadAt(data, 0)
		return err
	})
	return data, err
}

// read reads the beginning of an export.
func read(address, export string, into []byte) error {
	return with(address, export, func(c *nbdclient.Client) error {
		_, err := c.ReadAt(into, 0)
		return err
	})
}

func with(address, export string, use func(c *nbdclient.Client) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := nbdclient.Dial(ctx, address, export)
	if err != nil {
		return err
	}
	return errors.Join(use(c), c.Close())
}

// Images are the contents of volumes, in their order.
type Images [][]byte

// Replicas reads what the copies show.
func Replicas(volumes []Volume) (all Images, err error) {
	for _, v := range volumes {
		b, err := Image(v.Replica, v.Export)
		if err != nil {
			return nil, fmt.Errorf("copy of %s: %w", v.Export, err)
		}
		all = append(all, b)
	}
	return all, nil
}

// Differ says where two sets of images differ, "" if nowhere.
func (m Images) Differ(other Images) string {
	for i := range m {
		if !bytes.Equal(m[i], other[i]) {
			for at := range m[i] {
				if m[i][at] != other[i][at] {
					return fmt.Sprintf("volume %d differs at byte %d", i+1, at)
				}
			}
		}
	}
	return ""
}

// Records reads the part of the copies that holds records, of those volumes that are wanted; the others are nil.
func Records(volumes []Volume, wanted func(volume int) bool) (Images, error) {
	m := make(Images, len(volumes))
	for i, v := range volumes {
		if !wanted(i) {
			continue
		}
		m[i] = make([]byte, slots*block)
		if err := read(v.Replica, v.Export, m[i]); err != nil {
			return nil, fmt.Errorf("copy of %s: %w", v.Export, err)
		}
	}
	return m, nil
}

// Order returns the newest record that the images show, or an error if a slot does not hold what it must when
// all records up to that one were written and none after it. Images that are nil are left out.
func (m Images) Order() (newest uint64, err error) {
	n := uint64(len(m))
	found := func(v uint64, slot int64) uint64 { return binary.LittleEndian.Uint64(m[v][slot*block:]) }
	want := make([]byte, block)
	for v := range n {
		for s := range int64(slots) {
			if m[v] == nil {
				continue
			}
			newest = max(newest, found(v, s))
		}
	}
	held := map[[2]uint64]uint64{}
	for k := newest; k > 0 && k+n*slots > newest; k-- { // older ones were written over
		held[[2]uint64{k % n, uint64(slotOf(k, len(m)))}] = k
	}
	for v := range n {
		for s := range int64(slots) {
			if m[v] == nil {
				continue
			}
			k := held[[2]uint64{v, uint64(s)}]
			clear(want)
			if k > 0 {
				fill(want, k)
			}
			if got := m[v][s*block : (s+1)*block]; !bytes.Equal(got, want) {
				err = errors.Join(err, fmt.Errorf("record %d is there, but slot %d of volume %d holds record %d (or a torn one) in place of %d", newest, s, v+1, found(v, s), k))
			}
		}
	}
	return newest, err
}

// Compare wants every copy to equal its primary.
func Compare(volumes []Volume) (err error) {
	for _, v := range volumes {
		host, herr := Image(v.Host, v.Export)
		replica, rerr := Image(v.Replica, v.Export)
		if herr != nil || rerr != nil {
			return errors.Join(err, herr, rerr)
		}
		if d := (Images{host}).Differ(Images{replica}); d != "" || len(host) != len(replica) {
			err = errors.Join(err, fmt.Errorf("%s, %d bytes, and its copy, %d bytes: %s", v.Export, len(host), len(replica), d))
		}
	}
	return err
}
