package engine

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/ring/ringtest"
)

// laid is a piece of a journal that a test made.
type laid struct {
	pos    journalPos // to look for it
	start  uint64     // block, counted up
	blocks uint64
}

// layJournal fills a ring with pieces of random sizes, as the journal would, for more than one lap or less.
func layJournal(rng *rand.Rand, image []byte, pool UUID) (pieces []laid, end journalPos) {
	size := uint64(len(image) / BlockSize)
	pos := journalPos{seq: 1}
	for range rng.IntN(50) {
		p := piece{seq: pos.seq, prev: pos.prev}
		if rng.IntN(3) == 0 {
			p.flags, p.length, p.durable = pieceTwin, 100, pos.seq-1
		} else {
			p.length = uint32(1 + rng.IntN(pieceMaxBlocks*BlockSize-pieceHeader))
		}
		buf := make([]byte, pieceMaxBlocks*BlockSize)
		for i := pieceHeader; i < len(buf); i += 8 {
			le.PutUint64(buf[i:], rng.Uint64())
		}
		out := sealPiece(buf, pool, &p)
		at := placePiece(pos.block, p.blocks(), size)
		pieces = append(pieces, laid{pos, at, p.blocks()})
		copy(image[at%size*BlockSize:], out)
		if p.flags&pieceTwin != 0 {
			copy(image[(at%size+1)*BlockSize:], out)
		}
		pos = journalPos{block: at + p.blocks(), seq: pos.seq + 1, prev: p.sum}
	}
	return pieces, pos
}

// A scan, which reads the ring once and ahead, finds the chain that reading piece by piece finds, and damage by what is behind it.
func TestScanOfJournal(t *testing.T) {
	const zone, size = 16, 900
	rapid.Check(t, func(t *rapid.T) {
		pool := UUID{7}
		image := make([]byte, size*BlockSize)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		pieces, end := layJournal(rng, image, pool)
		tail := end
		for i := len(pieces) - 1; i >= 0 && end.block <= pieces[i].pos.block+size; i-- { // what was not overwritten
			if tail = pieces[i].pos; rng.IntN(60) == 0 {
				break
			}
		}
		pieces = pieces[tail.seq-1:]
		flushed := uint64(0) // by what pieces behind the damage say
		stop := end
		if len(pieces) > 0 && rng.IntN(2) == 0 {
			i := rng.IntN(len(pieces))
			stop = pieces[i].pos
			for b := range pieces[i].blocks {
				image[((pieces[i].start+b)%size)*BlockSize+9]++
			}
			for _, p := range pieces[i+1:] {
				if p, ok := openPiece(image[p.start%size*BlockSize:], pool); ok {
					flushed = max(flushed, p.durable)
				}
			}
		}
		wantBroken := stop.seq < end.seq && flushed >= stop.seq

		devs := ringtest.MustNew(ringtest.Options{Seed: 1}, ringtest.Spec{Size: (zone + size) * BlockSize})
		arena, err := ring.NewArena(recoveryBytes)
		if err != nil {
			t.Fatal(err)
		}
		io, err := newControlIO(devs, 64, arena)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := io.q.Close(); err != nil {
				t.Fatal(err)
			}
			if err := arena.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		for at := 0; at < size; at += pieceMaxBlocks {
			n := min(pieceMaxBlocks, size-at)
			copy(arena.Bytes(), image[at*BlockSize:(at+n)*BlockSize])
			if err := io.write(0, uint64(zone+at), arena.Bytes()[:n*BlockSize]); err != nil {
				t.Fatal(err)
			}
		}

		slots := 5 + rng.IntN(3)
		j := &journalReader{io: io, pool: pool, zone: zone, size: size, buf: arena.Bytes()[windowBytes:]}
		one := *j
		c := newJournalScan(j, arena.Bytes()[:slots*streamPiece], tail.block)
		pos := tail
		for {
			want, next, found, err := one.read(pos)
			if err != nil {
				t.Fatal(err)
			}
			want = append([]byte(nil), want...)
			clear(j.buf) // or the scan could find there what it did not read
			got, at, again, err := c.next(pos)
			if err != nil || found != again || at != next || string(got) != string(want) {
				t.Fatalf("piece %d: %t, %d bytes, then %+v (%v); piece by piece %t, %d bytes, then %+v", pos.seq, again, len(got), at, err, found, len(want), next)
			}
			if !found {
				break
			}
			pos = next
		}
		if pos != stop {
			t.Fatalf("the chain ends at %+v, want %+v", pos, stop)
		}
		if got, err := c.broken(pos); err != nil || got != wantBroken {
			t.Fatalf("broken at piece %d: %t (%v), want %t; %d of %d", pos.seq, got, err, wantBroken, stop.seq, end.seq)
		}
		if err := c.close(); err != nil {
			t.Fatal(err)
		}
	})
}
