package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
	"unsafe"

	"github.com/cespare/xxhash/v2"
)

// takeAll reads a stream as a careful receiver does: bodies decoded, blocks checked. It gives
// the number of whole frames, and the error that ended it.
func takeAll(src io.Reader) (int, error) {
	r := NewReader(src)
	for n := 0; ; n++ {
		h, body, err := r.Next()
		if err != nil {
			return n, err
		}
		if h.Type != TypeUpdates {
			if _, err := Decode(h.Type, body); err != nil {
				return n, err
			}
			continue
		}
		var u Updates
		if err := u.Decode(h, body); err != nil {
			return n, err
		}
		var block [BlockSize]byte
		for _, sum := range u.Sums() {
			if err := r.Payload(block[:]); err != nil {
				return n, err
			}
			if xxhash.Sum64(block[:]) != sum {
				return n, ErrChecksum
			}
		}
	}
}

// allMessages is a stream with every message type.
func allMessages(t testing.TB) []byte {
	var stream bytes.Buffer
	stream.Write(goldenExchange(t))
	w := NewWriter(&stream)
	w.number = 3
	for _, m := range golden {
		if !m.Type().InStream() {
			if err := w.WriteMessage(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return stream.Bytes()
}

func TestEveryBitFlipIsDetected(t *testing.T) {
	stream := allMessages(t)
	whole, err := takeAll(bytes.NewReader(stream))
	if err != io.EOF || whole != len(golden)+1 {
		t.Fatalf("unharmed: %d frames, %v", whole, err)
	}
	for bit := range len(stream) * 8 {
		stream[bit/8] ^= 1 << (bit % 8)
		if n, err := takeAll(bytes.NewReader(stream)); !errors.Is(err, ErrChecksum) && !errors.Is(err, ErrProtocol) {
			t.Fatalf("bit %d of byte %d flipped: %d frames, error %v", bit%8, bit/8, n, err)
		}
		stream[bit/8] ^= 1 << (bit % 8)
	}
}

func TestTruncatedStream(t *testing.T) {
	stream := allMessages(t)
	between := make(map[int]bool) // offsets at which a frame starts
	for at := 0; at < len(stream); {
		between[at] = true
		at += HeaderSize + int(le.Uint32(stream[at+offBody:])+le.Uint32(stream[at+offPayload:]))
	}
	for n := range stream {
		_, err := takeAll(bytes.NewReader(stream[:n]))
		if between[n] && err != io.EOF {
			t.Fatalf("ended between two frames, at %d: %v", n, err)
		}
		if !between[n] && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("ended inside a frame, at %d: %v", n, err)
		}
	}
}

func TestAnyPieces(t *testing.T) {
	stream := allMessages(t)
	for name, src := range map[string]io.Reader{
		"bytes":       iotest.OneByteReader(bytes.NewReader(stream)),
		"halves":      iotest.HalfReader(bytes.NewReader(stream)),
		"data at EOF": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		if n, err := takeAll(src); n != len(golden)+1 || err != io.EOF {
			t.Errorf("%s: %d frames, %v", name, n, err)
		}
	}
}

func TestSkipPayload(t *testing.T) {
	stream := allMessages(t)
	r := NewReader(bytes.NewReader(stream))
	frames := 0
	for {
		h, _, err := r.Next() // skips what was left of the payload
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Payload > 0 {
			if err := r.Payload(make([]byte, 5000)); err != nil {
				t.Fatal(err)
			}
			if got := r.PayloadLeft(); got != int(h.Payload)-5000 {
				t.Errorf("%d bytes left", got)
			}
		}
		frames++
	}
	if frames != len(golden)+1 {
		t.Errorf("%d frames", frames)
	}
}

// header makes one from its parts, with a correct checksum unless edit spoils it.
func header(h Header, edit func(b []byte)) []byte {
	var b [HeaderSize]byte
	h.bodySum = xxhash.Sum64(nil)
	h.put(&b)
	if edit != nil {
		edit(b[:])
		le.PutUint64(b[offHeaderSum:], xxhash.Sum64(b[:offHeaderSum]))
	}
	return b[:]
}

func TestRefusedHeaders(t *testing.T) {
	ping := Header{Type: TypePing, Number: 1}
	for _, c := range []struct {
		name, field string
		header      []byte
	}{
		{"magic", "magic", header(ping, func(b []byte) { b[3] = '2' })},
		{"flags", "flags", header(ping, func(b []byte) { b[offFlags] = 1 })},
		{"reserved", "reserved", header(ping, func(b []byte) { b[offReserved+1] = 1 })},
		{"type 0", "type", header(Header{Type: 0, Number: 1}, nil)},
		{"type past the last", "type", header(Header{Type: TypeReload + 1, Number: 1}, nil)},
		{"body too long", "body length", header(Header{Type: TypePing, Body: MaxBody + 1, Number: 1}, nil)},
		{"payload too long", "payload length", header(Header{Type: TypeUpdates, Payload: MaxPayload + BlockSize, Number: 1, Sequence: 1}, nil)},
		{"payload of half a block", "payload length", header(Header{Type: TypeUpdates, Payload: BlockSize / 2, Number: 1, Sequence: 1}, nil)},
		{"payload with Ping", "payload length", header(Header{Type: TypePing, Payload: BlockSize, Number: 1}, nil)},
		{"no sequence", "stream sequence", header(Header{Type: TypeManifest, Number: 1}, nil)},
		{"sequence with Ping", "stream sequence", header(Header{Type: TypePing, Number: 1, Sequence: 1}, nil)},
		{"number 0", "frame number", header(Header{Type: TypePing}, nil)},
		{"number 2", "frame number", header(Header{Type: TypePing, Number: 2}, nil)},
		{"unexpected sequence", "stream sequence", header(Header{Type: TypeManifest, Number: 1, Sequence: 6}, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReader(bytes.NewReader(c.header))
			r.ExpectSequence(5)
			_, _, err := r.Next()
			var fe *FormatError
			if !errors.As(err, &fe) || fe.Field != c.field {
				t.Errorf("error %v, want one about the %s", err, c.field)
			}
			if r.body != nil {
				t.Errorf("took memory for %d words", len(r.body))
			}
			if _, _, again := r.Next(); again != err {
				t.Errorf("went on after the error: %v", again)
			}
		})
	}
}

func TestFrameMissingOrTwice(t *testing.T) {
	exchange := goldenExchange(t)
	first := HeaderSize + int(le.Uint32(exchange[offBody:])+le.Uint32(exchange[offPayload:]))
	for name, stream := range map[string][]byte{
		"missing": exchange[first:],
		"twice":   append(bytes.Clone(exchange[:first]), exchange...),
	} {
		if _, err := takeAll(bytes.NewReader(stream)); !errors.Is(err, ErrProtocol) {
			t.Errorf("first frame %s: %v", name, err)
		}
	}
}

// A stream sequence that jumps is refused even where frame numbers go on.
func TestSequenceIsConsecutive(t *testing.T) {
	var stream bytes.Buffer
	w := NewWriter(&stream)
	z := &ZeroRanges{CG: 1, Ranges: []Zeroes{{Count: 1}}}
	for _, seq := range []uint64{7, 8, 10} {
		if err := w.WriteStream(z, seq); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := takeAll(&stream); n != 2 || !errors.Is(err, ErrProtocol) {
		t.Errorf("%d frames, %v", n, err)
	}
}

func TestUpdatesDecodeRefuses(t *testing.T) {
	const cg = uint64(1)
	block := func(volume, count uint32, block uint64) []byte { return encodeRaw(volume, count, block) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, c := range []struct {
		name, field string
		blocks      uint32
		body        []byte
	}{
		{"nothing", "body", 0, nil},
		{"CG 0", "cg", 1, join(encodeRaw(uint64(0), uint32(1), uint32(0)), block(0, 1, 0), encodeRaw(8))},
		{"no descriptors", "descriptors", 0, encodeRaw(cg, uint32(0), uint32(0))},
		{"too many descriptors", "descriptors", 1, join(encodeRaw(cg, uint32(MaxUpdateBlocks+1), uint32(0)), make([]byte, (MaxUpdateBlocks+1)*16+8))},
		{"reserved", "reserved", 1, join(encodeRaw(cg, uint32(1), uint32(1)), block(0, 1, 0), encodeRaw(8))},
		{"sums missing", "body", 2, join(encodeRaw(cg, uint32(1), uint32(0)), block(0, 2, 0), encodeRaw(8))},
		{"sums too many", "body", 1, join(encodeRaw(cg, uint32(1), uint32(0)), block(0, 1, 0), encodeRaw(16))},
		{"count 0", "count", 1, join(encodeRaw(cg, uint32(2), uint32(0)), block(0, 0, 0), block(0, 1, 0), encodeRaw(8))},
		{"counts exceed payload", "count", 2, join(encodeRaw(cg, uint32(2), uint32(0)), block(0, 2, 0), block(0, 1, 0), encodeRaw(16))},
		{"counts below payload", "count", 2, join(encodeRaw(cg, uint32(1), uint32(0)), block(0, 1, 0), encodeRaw(16))},
		{"count too large", "count", 1, join(encodeRaw(cg, uint32(1), uint32(0)), block(0, ^uint32(0), 0), encodeRaw(8))},
		{"past the end", "block", 1, join(encodeRaw(cg, uint32(1), uint32(0)), block(0, 1, MaxBlocks), encodeRaw(8))},
		{"large handle", "volume", 1, join(encodeRaw(cg, uint32(1), uint32(0)), block(MaxVolumes, 1, 0), encodeRaw(8))},
	} {
		t.Run(c.name, func(t *testing.T) {
			var u Updates
			good := join(encodeRaw(cg, uint32(1), uint32(0)), block(0, 1, 0), encodeRaw(8))
			if err := u.Decode(Header{Type: TypeUpdates, Payload: BlockSize}, good); err != nil || u.Len() != 1 {
				t.Fatal(u.Len(), err)
			}
			err := u.Decode(Header{Type: TypeUpdates, Payload: c.blocks * BlockSize, Number: 4}, c.body)
			var fe *FormatError
			if !errors.As(err, &fe) || fe.Field != c.field || fe.Frame != 4 {
				t.Errorf("error %v, want one about the %s of frame 4", err, c.field)
			}
			if u.Len() != 0 || u.Blocks() != 0 {
				t.Error("a refused body can be walked over")
			}
		})
	}
}

func TestBatchRefuses(t *testing.T) {
	payload, sums := randomBlocks(1, 2)
	var b Batch
	if err := b.Add(Update{Count: 2}, sums, payload); err == nil {
		t.Error("without Reset: accepted")
	}
	b.Reset(1)
	for name, add := range map[string]func() error{
		"count 0":      func() error { return b.Add(Update{}, nil) },
		"few sums":     func() error { return b.Add(Update{Count: 2}, sums[:1], payload) },
		"few bytes":    func() error { return b.Add(Update{Count: 2}, sums, payload[1:]) },
		"many bytes":   func() error { return b.Add(Update{Count: 1}, sums[:1], payload) },
		"past the end": func() error { return b.Add(Update{Count: 2, Block: MaxBlocks - 1}, sums, payload) },
		"large handle": func() error { return b.Add(Update{Count: 2, Volume: MaxVolumes}, sums, payload) },
	} {
		if err := add(); !errors.Is(err, ErrProtocol) || b.Len() != 0 || b.Blocks() != 0 {
			t.Errorf("%s: error %v, batch has %d updates, %d blocks", name, err, b.Len(), b.Blocks())
		}
	}
	w := NewWriter(io.Discard)
	if err := w.WriteUpdates(&b, 1); !errors.Is(err, ErrProtocol) {
		t.Errorf("an empty batch: %v", err)
	}
	n := 0
	for b.Fits(2) {
		if err := b.Add(Update{Count: 2}, sums, payload); err != nil {
			t.Fatal(err)
		}
		n += 2
	}
	if err := b.Add(Update{Count: 2}, sums, payload); n != MaxUpdateBlocks || !errors.Is(err, ErrProtocol) {
		t.Errorf("%d blocks fit, then %v", n, err)
	}
	if err := w.WriteUpdates(&b, 0); !errors.Is(err, ErrProtocol) {
		t.Errorf("without stream sequence: %v", err)
	}
	if err := w.WriteMessage(&Manifest{CG: 1, Volumes: make([]VolumeManifest, 1)}); !errors.Is(err, ErrProtocol) {
		t.Errorf("manifest outside a stream: %v", err)
	}
	if err := w.WriteUpdates(&b, 1); err != nil || w.number != 1 {
		t.Errorf("refusals were to leave the writer usable: frame %d, %v", w.number, err)
	}
	b.Reset(2)
	for _, p := range b.payload[:cap(b.payload)] {
		if p != nil {
			t.Fatal("an emptied batch holds on to payload")
		}
	}
}

// Checksums read in place and copied are the same.
func TestSumsAtAnyAlignment(t *testing.T) {
	_, sums := randomBlocks(3, 5)
	memory := make([]byte, 8*len(sums)+8)
	for shift := range 8 {
		wire := memory[shift:]
		copy(wire, appendSums(nil, sums))
		got, own := viewSums(wire[:8*len(sums)], nil)
		if fmt.Sprint(got) != fmt.Sprint(sums) {
			t.Errorf("shifted by %d: %x, want %x", shift, got, sums)
		}
		aligned := uintptr(unsafe.Pointer(&wire[0]))%8 == 0
		if inPlace := own == nil; littleEndianHost && inPlace != aligned {
			t.Errorf("shifted by %d: in place %v, aligned %v", shift, inPlace, aligned)
		}
	}
}

// spy notes into which memory it is asked to read.
type spy struct {
	io.Reader
	reads func(p []byte)
}

func (s spy) Read(p []byte) (int, error) {
	s.reads(p)
	return s.Reader.Read(p)
}

func TestPayloadGoesStraightToItsPlace(t *testing.T) {
	payload, sums := randomBlocks(5, 64)
	var stream bytes.Buffer
	var b Batch
	b.Reset(1)
	if err := b.Add(Update{Count: 64}, sums, payload); err != nil {
		t.Fatal(err)
	}
	if err := NewWriter(&stream).WriteUpdates(&b, 1); err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, len(payload))
	direct := 0
	r := NewReader(spy{&stream, func(p []byte) {
		if at := uintptr(unsafe.Pointer(&p[0])) - uintptr(unsafe.Pointer(&dst[0])); at < uintptr(len(dst)) {
			direct += len(p)
		}
	}})
	if _, _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if err := r.Payload(dst); err != nil {
		t.Fatal(err)
	}
	if direct < len(dst)-readBuffer || !bytes.Equal(dst, payload) {
		t.Errorf("%d of %d bytes were read in place", direct, len(dst))
	}
}

// failing writes n bytes, then fails.
type failing struct{ n int }

func (f *failing) Write(p []byte) (int, error) {
	if len(p) > f.n {
		return f.n, io.ErrClosedPipe
	}
	f.n -= len(p)
	return len(p), nil
}

func TestFailedWriteIsFinal(t *testing.T) {
	payload, sums := randomBlocks(6, 1)
	var b Batch
	b.Reset(1)
	if err := b.Add(Update{Count: 1}, sums, payload); err != nil {
		t.Fatal(err)
	}
	dst := &failing{5000} // the second frame is cut in two
	w := NewWriter(dst)
	if err := w.WriteUpdates(&b, 1); err != nil {
		t.Fatal(err)
	}
	err := w.WriteUpdates(&b, 2)
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	dst.n = 1 << 20
	if again := w.WriteMessage(&Ping{}); again != err {
		t.Errorf("wrote after half a frame: %v", again)
	}
}

func TestDigest(t *testing.T) {
	_, sums := randomBlocks(7, 6)
	var d Digest
	if got := d.Manifest(3); got != (VolumeManifest{Volume: 3, Digest: xxhash.Sum64(nil)}) {
		t.Errorf("empty: %+v", got)
	}
	d.AddUpdate(Update{Volume: 3, Block: 10, Count: 4}, sums[:4])
	d.AddZeroes(Zeroes{Volume: 3, Block: 1 << 40, Count: 1 << 36})
	d.AddUpdate(Update{Volume: 3, Block: 11, Count: 2}, sums[4:])
	// The definition in PROTOCOL.md, laid out by hand.
	want := encodeRaw(uint64(10), uint64(8), sums[0], sums[1], sums[2], sums[3],
		uint64(1<<40), uint64(1<<37+1), uint64(11), uint64(4), sums[4], sums[5])
	if got := d.Manifest(3); got != (VolumeManifest{Volume: 3, Blocks: 6, Updates: 3, Digest: xxhash.Sum64(want)}) {
		t.Errorf("got %+v", got)
	}
	other := Digest{}
	other.AddUpdate(Update{Block: 11, Count: 2}, sums[4:])
	other.AddUpdate(Update{Block: 10, Count: 4}, sums[:4])
	other.AddZeroes(Zeroes{Block: 1 << 40, Count: 1 << 36})
	if other.Sum64() == d.Sum64() {
		t.Error("order does not matter")
	}
	d.Reset()
	if d.Blocks() != 0 || d.Updates() != 0 || d.Sum64() != xxhash.Sum64(nil) {
		t.Error("Reset left something")
	}
	if n := testing.AllocsPerRun(100, func() {
		d.AddUpdate(Update{Count: 6}, sums)
		d.AddZeroes(Zeroes{Count: 1})
		_ = d.Manifest(0)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// repair makes the checksums and numbers of a mutated stream fit, so that a fuzzer gets past them.
func repair(stream []byte) {
	for number := uint64(1); len(stream) >= HeaderSize; number++ {
		le.PutUint64(stream[offNumber:], number)
		body := int(le.Uint32(stream[offBody:]))
		if rest := len(stream) - HeaderSize; body <= rest {
			le.PutUint64(stream[offBodySum:], xxhash.Sum64(stream[HeaderSize:HeaderSize+body]))
		}
		le.PutUint64(stream[offHeaderSum:], xxhash.Sum64(stream[:offHeaderSum]))
		next := HeaderSize + body + int(le.Uint32(stream[offPayload:]))
		if next > len(stream) {
			return
		}
		stream = stream[next:]
	}
}

func FuzzReader(f *testing.F) {
	f.Add(goldenExchange(f)[HeaderSize+64+2*BlockSize:]) // without the long payload
	f.Add(allMessages(f)[HeaderSize+64+2*BlockSize:])
	payload, sums := randomBlocks(1, 1)
	var b Batch
	b.Reset(1)
	if err := b.Add(Update{Count: 1}, sums, payload); err != nil {
		f.Fatal(err)
	}
	var updates bytes.Buffer
	if err := NewWriter(&updates).WriteUpdates(&b, 1); err != nil {
		f.Fatal(err)
	}
	f.Add(updates.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		stream := bytes.Clone(in)
		_, plain := takeAll(bytes.NewReader(stream))
		repair(stream)
		n, err := takeAll(bytes.NewReader(stream))
		if plain == nil || err == nil {
			t.Fatal("a stream without end")
		}
		if n2, err2 := takeAll(iotest.OneByteReader(bytes.NewReader(stream))); n2 != n || err2.Error() != err.Error() {
			t.Fatalf("whole: %d frames, %v; byte by byte: %d, %v", n, err, n2, err2)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(header(Header{Type: TypeUpdates, Payload: BlockSize, Body: 40, Number: 3, Sequence: 2}, nil))
	f.Add(header(Header{Type: TypePing, Number: 1}, nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		var b, out [HeaderSize]byte
		copy(b[:], in)
		le.PutUint64(b[offHeaderSum:], xxhash.Sum64(b[:offHeaderSum]))
		h, err := parseHeader(&b)
		if err != nil {
			var fe *FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("error %T", err)
			}
			return
		}
		if h.put(&out); out != b {
			t.Fatalf("% x was read as %+v, which is written % x", b, h, out)
		}
	})
}

// FuzzDecode reaches every decoder: what it accepts must be encoded to the same bytes.
func FuzzDecode(f *testing.F) {
	for _, m := range golden {
		body, err := Append(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(m.Type()), body, uint16(0))
	}
	exchange := goldenExchange(f)
	f.Add(uint8(TypeUpdates), exchange[HeaderSize:][:le.Uint32(exchange[offBody:])], uint16(2))
	f.Fuzz(func(t *testing.T, ty uint8, body []byte, blocks uint16) {
		if Type(ty) == TypeUpdates {
			fuzzUpdates(t, body, blocks)
			return
		}
		m, err := Decode(Type(ty), body)
		if err != nil {
			var fe *FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("error %T: %v", err, err)
			}
			return
		}
		if h, ok := m.(*Hello); ok && h.Version != Version {
			return // its rest is not ours to read
		}
		again, err := Append(nil, m)
		if err != nil || !bytes.Equal(again, body) {
			t.Fatalf("% x was read as %+v, which is written % x, %v", body, m, again, err)
		}
	})
}

func fuzzUpdates(t *testing.T, body []byte, blocks uint16) {
	var u Updates
	if u.Decode(Header{Type: TypeUpdates, Payload: uint32(blocks) * BlockSize}, body) != nil {
		return
	}
	var b Batch
	b.Reset(u.CG())
	for d, sums := range u.All() {
		if err := b.Add(d, sums, make([]byte, len(sums)*BlockSize)); err != nil {
			t.Fatal(err)
		}
	}
	if again := append(bytes.Clone(b.body), b.sums...); b.Blocks() != int(blocks) || !bytes.Equal(again, body) {
		t.Fatalf("% x is written % x", body, again)
	}
}
