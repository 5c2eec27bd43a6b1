package primary

import (
	"fmt"

	"github.com/farside-storage/farside/internal/plant"
	"github.com/farside-storage/farside/ring"
)

// Op is what a host asks for.
type Op uint8

const (
	OpWrite Op = iota + 1
	// OpWriteZeroes makes a range read as zeros.
	OpWriteZeroes
	// OpTrim makes the whole blocks of a range read as zeros, and leaves the rest alone. A
	// device's discard leaves unspecified contents, so it is done as a write of zeros: the
	// copy could not equal the volume otherwise.
	OpTrim

	opCatchup // of the core's own
	opSettle
)

// maxRun is the longest catch-up read and queued update in blocks (1 MiB).
const maxRun = 256

// stage is what an IO waits for.
type stage uint8

const (
	stageLock      stage = iota // earlier requests over the same blocks
	stageIntent                 // the write-intent log
	stageHold                   // a thaw
	stageCollision              // old contents that a cut CG still has to send
	stageEdges                  // reading blocks that are written in part
	stageWrite
	stageFlush
	stageCatchup
	stageSettle
)

// IO is a host request, from Core.Submit to its appearance in Actions.Done; it belongs to the
// core in between. It may be used again afterwards. The exported fields are set by the host side.
type IO struct {
	Op     Op
	FUA    bool // durable before it ends
	Volume int
	// Off and Len in bytes.
	Off, Len uint64
	// Payload of a write: Bytes holds at least Len bytes. The core retains it as long as a connection
	// needs it.
	Payload Payload
	// Err is the outcome.
	Err error
	// Owner is the driver's.
	Owner any

	stage       stage
	first, last uint64 // blocks touched, inclusive
	blockers    int    // earlier requests that overlap
	waited      bool   // a later request waits for this one
	lockSlot    int
	pending     int // parts of the stage in progress
	parts       [3]DeviceIO
	bounce      Payload // memory of read-modify-write, or of a read of the core's own
	head, tail  []byte  // blocks written in part, in bounce
	readAt      uint64  // collision, catch-up: first block read
	readCount   uint64
	zero        [4]uint64 // catch-up: which blocks are zeros
	inspected   bool
	replica     *replica // catch-up
}

// Submit begins a host request. Every request ends by appearing in Actions.Done.
func (c *Core) Submit(io *IO) {
	io.Err = c.check(io)
	if io.Err == nil && io.Op == OpTrim {
		io.roundInwards()
	}
	if io.Err != nil || io.Len == 0 {
		c.out.Done = append(c.out.Done, io)
		return
	}
	v := c.volumes[io.Volume]
	v.hosts++
	io.first, io.last = io.Off/BlockSize, (io.Off+io.Len-1)/BlockSize
	io.stage, io.head, io.tail = stageLock, nil, nil
	v.locks.insert(io)
	if io.blockers == 0 {
		c.advance(io)
	}
}

func (c *Core) check(io *IO) error {
	if io.Volume < 0 || io.Volume >= len(c.volumes) {
		return fmt.Errorf("volume index %d: there are %d volumes", io.Volume, len(c.volumes))
	}
	v := c.volumes[io.Volume]
	switch {
	case v.leaving:
		return fmt.Errorf("volume %q has been taken out of the configuration", v.spec.Name)
	case io.Off > v.spec.Size || io.Len > v.spec.Size-io.Off:
		return fmt.Errorf("volume %q: %d bytes at %d end past its size of %d", v.spec.Name, io.Len, io.Off, v.spec.Size)
	case io.Op != OpWrite && io.Op != OpWriteZeroes && io.Op != OpTrim:
		return fmt.Errorf("volume %q: operation %d is not one of a host's", v.spec.Name, io.Op)
	case io.Op == OpWrite && io.Len > 0 && (io.Payload == nil || uint64(len(io.Payload.Bytes())) < io.Len):
		return fmt.Errorf("volume %q: write of %d bytes at %d has less payload", v.spec.Name, io.Len, io.Off)
	}
	return nil
}

// roundInwards limits a trim to whole blocks.
func (io *IO) roundInwards() {
	end := (io.Off + io.Len) / BlockSize * BlockSize
	io.Off = (io.Off + BlockSize - 1) / BlockSize * BlockSize
	io.Len = max(end, io.Off) - io.Off
}

// advance moves a request that holds its range on to its first device I/O, or to what it waits for.
func (c *Core) advance(io *IO) {
	v := c.volumes[io.Volume]
	if !c.intent.covers(v, io.first, io.last) {
		io.stage = stageIntent
		c.intent.want(v, io)
		return
	}
	if g := v.group; g.hold != holdNone && !(plant.On(plant.WriteAfterHeld) && g.hold == holdHeld) {
		io.stage = stageHold
		g.waiting.push(io)
		return
	}
	c.admit(io, v)
}

// admit makes the request part of the open CG.
func (c *Core) admit(io *IO, v *volume) {
	v.group.writing++
	v.writing++
	v.changed().set(io.first, io.last-io.first+1)
	v.intent.touch(io.first, io.last)
	c.collide(io, v)
}

// collide reads the next old contents that a cut CG still has to send from io's range, or goes on to the
// write when there are none.
func (c *Core) collide(io *IO, v *volume) {
	for _, r := range v.replicas {
		if r.conn.cut == nil || plant.On(plant.CollisionIgnored) {
			continue
		}
		at, ok := r.cut.next(io.first, io.last+1)
		if !ok {
			continue
		}
		if r.conn.queued > 2*c.opt.QueueBytes {
			c.lose(v.group, fmt.Sprintf("no room to keep what host writes to volume %q displace: %d bytes wait for secondary %q",
				v.spec.Name, r.conn.queued, r.conn.secondary))
			continue
		}
		end := r.cut.nextClear(at, min(at+maxRun, io.last+1))
		c.readBlocks(io, stageCollision, at, end-at)
		return
	}
	c.readEdges(io)
}

// readBlocks starts a read of the core's own, into io.bounce.
func (c *Core) readBlocks(io *IO, s stage, first, count uint64) {
	io.stage, io.readAt, io.readCount = s, first, count
	io.bounce = c.opt.Alloc(int(count * BlockSize))
	c.device(io, ring.OpRead, first*BlockSize, io.bounce.Bytes()[:count*BlockSize], 0)
}

// device starts one part of the request's stage.
func (c *Core) device(io *IO, op ring.Op, off uint64, buf []byte, length uint64) {
	d := &io.parts[io.pending]
	io.pending++
	d.io = io
	d.Request = ring.Request{Op: op, Device: io.Volume, Off: int64(off), Buf: buf, Len: int64(length),
		FUA: io.FUA && op == ring.OpWrite}
	d.Err = nil
	c.out.Device = append(c.out.Device, d)
}

// DeviceDone reports the end of a device I/O, its outcome in Err.
func (c *Core) DeviceDone(d *DeviceIO) {
	io := d.io
	if d.Err != nil && io.Err == nil {
		io.Err = d.Err
	}
	if io.pending--; io.pending > 0 {
		return
	}
	v := c.volumes[io.Volume]
	switch io.stage {
	case stageCollision:
		c.collisionRead(io, v)
	case stageEdges:
		if io.Err != nil {
			c.finishWrite(io, v)
			return
		}
		c.write(io)
	case stageWrite:
		if io.FUA && io.Op != OpWrite && io.Err == nil {
			io.stage = stageFlush
			c.device(io, ring.OpFlush, 0, nil, 0)
			return
		}
		c.finishWrite(io, v)
	case stageFlush:
		if io.Err != nil {
			c.FlushFailed(io.Volume, io.Err)
		}
		c.finishWrite(io, v)
	case stageCatchup:
		c.catchupRead(io, v)
	case stageSettle:
		c.regionsSettled(io, v)
	}
}

// collisionRead queues the old contents for the cut CG.
func (c *Core) collisionRead(io *IO, v *volume) {
	if io.Err != nil {
		c.lose(v.group, fmt.Sprintf("reading what a host write to volume %q displaces: %v", v.spec.Name, io.Err))
		io.Err = nil // it is not the host's: its own write may still succeed
	} else {
		s := c.payload.get(io.bounce, io.bounce.Bytes()[:io.readCount*BlockSize])
		for _, r := range v.replicas {
			if r.conn.cut != nil {
				c.queueRuns(r, r.conn.cut, r.cut, io.readAt, io.readCount, s, nil)
			}
		}
		c.payload.release(s)
		c.kickVolume(v)
	}
	io.dropBounce()
	c.collide(io, v)
}

func (io *IO) dropBounce() {
	if io.bounce != nil {
		io.bounce.Release()
		io.bounce = nil
	}
}

// edges says which of the first and last block the request covers in part.
func (io *IO) edges() (head, tail bool) {
	end := io.Off + io.Len
	head = io.Off%BlockSize != 0 || (io.first == io.last && end%BlockSize != 0)
	tail = io.last != io.first && end%BlockSize != 0
	return head, tail
}

// readEdges begins read-modify-write where blocks are covered in part, or else writes.
func (c *Core) readEdges(io *IO) {
	head, tail := io.edges()
	if !head && !tail {
		c.write(io)
		return
	}
	blocks := uint64(2)
	if io.Op == OpWrite { // the payload is misaligned in memory too: all of it moves
		blocks = io.last - io.first + 1
	}
	io.bounce = c.opt.Alloc(int(blocks * BlockSize))
	b := io.bounce.Bytes()[:blocks*BlockSize]
	io.stage = stageEdges
	if head {
		io.head = b[:BlockSize]
		c.device(io, ring.OpRead, io.first*BlockSize, io.head, 0)
	}
	if tail {
		io.tail = b[(blocks-1)*BlockSize:]
		c.device(io, ring.OpRead, io.last*BlockSize, io.tail, 0)
	}
}

// write begins the device writes proper; edges are read by now.
func (c *Core) write(io *IO) {
	io.stage = stageWrite
	if io.Op == OpWrite {
		data := io.Payload.Bytes()[:io.Len]
		if io.bounce != nil {
			whole := io.bounce.Bytes()[:(io.last-io.first+1)*BlockSize]
			copy(whole[io.Off%BlockSize:], data)
			data = whole
		}
		c.device(io, ring.OpWrite, io.first*BlockSize, data, 0)
		return
	}
	if io.head != nil {
		from := io.Off % BlockSize
		clear(io.head[from:min(BlockSize, from+io.Len)])
		c.device(io, ring.OpWrite, io.first*BlockSize, io.head, 0)
	}
	if io.tail != nil {
		clear(io.tail[:(io.Off+io.Len)%BlockSize])
		c.device(io, ring.OpWrite, io.last*BlockSize, io.tail, 0)
	}
	if first, count := io.interior(); count > 0 {
		c.device(io, ring.OpWriteZeroes, first*BlockSize, nil, count*BlockSize)
	}
}

// interior gives the whole blocks of a request of zeros.
func (io *IO) interior() (first, count uint64) {
	first, count = io.first, io.last-io.first+1
	if io.head != nil {
		first, count = first+1, count-1
	}
	if io.tail != nil {
		count--
	}
	return first, count
}

// finishWrite ends a host request: its updates are queued or recorded, the host is answered.
func (c *Core) finishWrite(io *IO, v *volume) {
	count := io.last - io.first + 1
	if io.Err != nil { // what the device holds now is unknown: it will be read
		for _, r := range v.replicas {
			r.lack(io.first, count)
		}
	} else {
		c.replicate(io, v)
	}
	io.dropBounce()
	v.writing--
	v.hosts--
	v.group.writing--
	c.unlock(io, v)
	c.out.Done = append(c.out.Done, io)
	c.kickVolume(v)
	if v.group.hold == holdWaiting && v.group.writing == 0 {
		c.held(v.group)
	}
}

// unlock gives up io's range and lets those go on that waited for it.
func (c *Core) unlock(io *IO, v *volume) {
	for _, next := range v.locks.remove(io) {
		if next.Op == opCatchup {
			panic("primary: a catch-up read waited for its range") // only free ranges are chosen
		}
		c.advance(next)
	}
}

// replicate hands the new contents to every copy of the volume.
func (c *Core) replicate(io *IO, v *volume) {
	var s, edge *shared
	count := io.last - io.first + 1
	for _, r := range v.replicas {
		bytes := int64(count * BlockSize)
		if io.Op != OpWrite {
			bytes = int64(len(io.head) + len(io.tail))
		}
		if r.apart || !c.streams(r.conn, bytes) {
			r.lack(io.first, count)
			continue
		}
		if io.Op == OpWrite {
			if s == nil {
				s = c.writtenPayload(io, count)
			}
			c.queue(r, r.conn.open, io.first, count, s, 0)
		} else {
			edge = c.queueZeroes(io, r, edge)
		}
		r.queued(io.first, count)
	}
	c.payload.release(s)
	c.payload.release(edge)
}

// writtenPayload wraps what the device was given.
func (c *Core) writtenPayload(io *IO, count uint64) *shared {
	if io.bounce != nil {
		return c.payload.get(io.bounce, io.bounce.Bytes()[:count*BlockSize])
	}
	return c.payload.get(io.Payload, io.Payload.Bytes()[:count*BlockSize])
}

// queueZeroes queues a request of zeros: its edges as payload, its interior as a range.
func (c *Core) queueZeroes(io *IO, r *replica, edge *shared) *shared {
	if edge == nil && (io.head != nil || io.tail != nil) {
		edge = c.payload.get(io.bounce, io.bounce.Bytes()[:2*BlockSize])
	}
	if io.head != nil {
		c.queue(r, r.conn.open, io.first, 1, edge, 0)
	}
	if first, count := io.interior(); count > 0 {
		c.queue(r, r.conn.open, first, count, nil, 0)
	}
	if io.tail != nil {
		c.queue(r, r.conn.open, io.last, 1, edge, 1)
	}
	return edge
}
