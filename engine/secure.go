package engine

import (
	"fmt"

	"github.com/farside-storage/farside/internal/plant"
)

// G: what recovery has read may be gone with the next loss of power: it was never flushed, or its flush failed, after
// which a device may show what it will never keep. A flush alone would not bring that back. So the root, and the
// pieces of the journal that no later piece says were flushed, are written again as they are, and flushed; all else
// was durable before they were written. From here on it is acknowledged.
func (r *recovery) secure() error {
	if plant.On(plant.FlushAtOpen) {
		return nil
	}
	if err := r.rewriteRoot(); err != nil {
		return err
	}
	j := r.journalReader()
	for _, pos := range r.doubtful {
		_, _, found, err := j.read(pos)
		if err != nil {
			return err
		}
		if !found {
			return r.corrupt(j.zone+pos.block%j.size, "journal", fmt.Sprintf("piece %d was whole a moment ago", pos.seq), nil)
		}
		if err := r.io.write(0, j.zone+j.start, j.image); err != nil {
			return err
		}
	}
	return r.io.flush()
}

func (r *recovery) rewriteRoot() error {
	at := r.p.sb.zones.rootSlot(r.root.checkpoint % 2)
	for image := r.root.image; len(image) > 0; {
		n := copy(r.scratch, image)
		if err := r.io.write(0, at, r.scratch[:n]); err != nil {
			return err
		}
		image = image[n:]
		at += uint64(n / BlockSize)
	}
	r.root.image = nil
	return nil
}

// doubt notes the piece at pos, which says that those up to durable had been flushed.
func (r *recovery) doubt(pos journalPos, durable uint64) {
	r.doubtful = append(r.doubtful, pos)
	n := 0
	for n < len(r.doubtful) && r.doubtful[n].seq <= durable {
		n++
	}
	r.doubtful = r.doubtful[n:]
}

// found keeps the piece whose good copy is block copy of buf; both copies of a twin are then like it.
func (j *journalReader) found(p piece, buf []byte, start uint64, copyAt int) {
	if p.flags&pieceTwin != 0 && len(buf) >= 2*BlockSize {
		good := buf[copyAt*BlockSize : (copyAt+1)*BlockSize]
		copy(buf[(1-copyAt)*BlockSize:(2-copyAt)*BlockSize], good)
	}
	j.piece, j.start = p, start
	j.image = buf[:min(p.blocks()*BlockSize, uint64(len(buf)))]
}
