package engine

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var allowUnexported = cmp.AllowUnexported(superblock{}, poolDevice{}, zones{}, root{}, catalogGroup{}, catalogVolume{}, Membership{},
	groupState{}, prange{}, journalPos{}, piece{}, record{}, vrange{}, logEntry{})

// genName is a name as Format and CreateVolume take it.
func genName() *rapid.Generator[string] { return rapid.StringMatching(`[a-z0-9-]{1,30}`) }

func genUUID() *rapid.Generator[UUID] {
	return rapid.Custom(func(t *rapid.T) (u UUID) {
		copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
		return u
	})
}

// genSuperblock draws one that validate accepts.
func genSuperblock() *rapid.Generator[*superblock] {
	return rapid.Custom(func(t *rapid.T) *superblock {
		extent := uint64(1) << rapid.IntRange(6, 16).Draw(t, "extent bits")
		some := func(lo, hi uint64, what string) uint64 { return rapid.Uint64Range(lo, hi).Draw(t, what) }
		z := zones{extentBlocks: uint32(extent), root: headerBlocks + some(0, 9, "gap"), rootBlocks: some(2, 1<<20, "root"),
			journalLen: some(minJournalBlocks, 1<<22, "journal"), tablePairs: some(1, 1<<24, "pairs")}
		z.journal = z.root + 2*z.rootBlocks + some(0, 9, "gap")
		z.tables = z.journal + z.journalLen + some(0, 9, "gap")
		z.data = roundUp(z.tables+2*z.tablePairs, extent)
		s := &superblock{version: FormatVersion, sequence: rapid.Uint64().Draw(t, "sequence"), pool: genUUID().Draw(t, "pool"),
			created: rapid.Int64().Draw(t, "created"), name: genName().Draw(t, "name"), zones: z}
		base, n := uint64(0), rapid.IntRange(1, MaxDevices).Draw(t, "devices")
		for range n {
			d := poolDevice{id: genUUID().Draw(t, "device"), base: PBlock(base), blocks: z.data + some(0, 1<<24, "blocks")}
			s.devices = append(s.devices, d)
			base = roundUp(base+d.blocks, extent)
		}
		s.index = uint32(rapid.IntRange(0, n-1).Draw(t, "index"))
		s.device = s.devices[s.index].id
		return s
	})
}

func TestSuperblockRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, at := genSuperblock().Draw(t, "superblock"), rapid.IntRange(0, superblockCopies-1).Draw(t, "copy")
		b := s.encode(at)
		if len(b) != BlockSize {
			t.Fatalf("%d bytes", len(b))
		}
		got, err := decodeSuperblock(b, at)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, got, allowUnexported); d != "" {
			t.Fatal(d)
		}
		if _, err := decodeSuperblock(b, (at+1)%superblockCopies); err == nil {
			t.Fatal("accepted at the place of another copy")
		}
		bit := rapid.IntRange(0, BlockSize*8-1).Draw(t, "bit")
		b[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeSuperblock(b, at); err == nil {
			t.Fatalf("bit %d flipped: accepted", bit)
		}
	})
}

// TestSuperblockLimits: what has a good checksum is checked too, for what the rest of the engine computes with.
func TestSuperblockLimits(t *testing.T) {
	good := func() *superblock {
		return &superblock{version: FormatVersion, zones: zones{extentBlocks: 64, root: 256, rootBlocks: 3, journal: 262, journalLen: 512,
			tables: 774, tablePairs: 60, data: 896}, devices: []poolDevice{{blocks: 2000}, {base: 2048, blocks: 2000}}}
	}
	if _, err := decodeSuperblock(good().encode(0), 0); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func(s *superblock){
		"version":                       func(s *superblock) { s.version++ },
		"feature":                       func(s *superblock) { s.features = 1 << 63 },
		"index":                         func(s *superblock) { s.index = 2 },
		"no device":                     func(s *superblock) { s.devices = nil },
		"extent is no power of two":     func(s *superblock) { s.zones.extentBlocks = 96 },
		"extent too small":              func(s *superblock) { s.zones.extentBlocks = 32 },
		"first device not at 0":         func(s *superblock) { s.devices[0].base, s.devices[1].base = 64, 4096 },
		"base not aligned":              func(s *superblock) { s.devices[1].base = 2049 },
		"devices overlap":               func(s *superblock) { s.devices[1].base = 1984 },
		"base and blocks overflow":      func(s *superblock) { s.devices[1].base, s.devices[1].blocks = math.MaxUint64-63, 64 },
		"device past the pool's limit":  func(s *superblock) { s.devices[1].blocks = MaxPoolBlocks },
		"root in the head":              func(s *superblock) { s.zones.root = 255 },
		"root without a body":           func(s *superblock) { s.zones.rootBlocks = 1 },
		"no root":                       func(s *superblock) { s.zones.rootBlocks = 0 },
		"no journal":                    func(s *superblock) { s.zones.journalLen = 0 },
		"journal too short for a piece": func(s *superblock) { s.zones.journalLen = minJournalBlocks - 1 },
		"journal overlaps the roots":    func(s *superblock) { s.zones.journal-- },
		"tables overlap the journal":    func(s *superblock) { s.zones.tables-- },
		"tables overlap the data":       func(s *superblock) { s.zones.tablePairs = 62 },
		"data past the end":             func(s *superblock) { s.zones.data = 2048 },
		"data not at an extent":         func(s *superblock) { s.zones.data = 900 },
		"more pairs than numbers": func(s *superblock) {
			s.zones.tablePairs, s.zones.data, s.devices[0].blocks = 1<<33, 1<<35, 1<<35
			s.devices = s.devices[:1]
		},
		"sum of zones that would wrap":   func(s *superblock) { s.zones.rootBlocks = 1 << 63 },
		"journal as large as everything": func(s *superblock) { s.zones.journalLen = math.MaxUint64 },
	} {
		s := good()
		spoil(s)
		if _, err := decodeSuperblock(s.encode(0), 0); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	b := good().encode(0)
	le.PutUint32(b[68:], 1) // a valid checksum over another copy's number
	le.PutUint64(b[BlockSize-8:], Sum(b[:BlockSize-8]))
	if _, err := decodeSuperblock(b, 0); err == nil {
		t.Error("copy 1 accepted as copy 0")
	}
}

// TestChooseSuperblock: the newest sequence that two copies carry.
func TestChooseSuperblock(t *testing.T) {
	s := &superblock{version: FormatVersion, zones: zones{extentBlocks: 64, root: 256, rootBlocks: 3, journal: 262, journalLen: 512,
		tables: 774, tablePairs: 60, data: 896}, devices: []poolDevice{{blocks: 2000}}}
	for _, c := range []struct {
		sequences [superblockCopies]uint64 // 0: blank
		want      uint64                   // 0: refused
		damaged   int
	}{
		{[4]uint64{1, 1, 1, 1}, 1, 0},
		{[4]uint64{2, 2, 1, 1}, 2, 0},
		{[4]uint64{1, 1, 2, 2}, 2, 0},
		{[4]uint64{2, 1, 1, 1}, 1, 0},
		{[4]uint64{1, 0, 0, 1}, 1, 2},
		{[4]uint64{3, 2, 1, 1}, 1, 0},
		{[4]uint64{1, 0, 0, 0}, 0, 3},
		{[4]uint64{1, 2, 3, 4}, 0, 0},
		{[4]uint64{}, 0, 4},
	} {
		var copies [superblockCopies][]byte
		for i, n := range c.sequences {
			copies[i] = make([]byte, BlockSize)
			if n > 0 {
				own := *s
				own.sequence = n
				copies[i] = own.encode(i)
			}
		}
		got, damaged, err := chooseSuperblock("disk", copies)
		if (err == nil) != (c.want > 0) || err == nil && (got.sequence != c.want) || len(damaged) != c.damaged {
			t.Errorf("%v: got %+v, damaged %v, %v", c.sequences, got, damaged, err)
		}
	}
}

// TestUnknownFormatIsRefused: a pool of another version, or with features that are not known, is refused with a message that says so. It is not
// called damaged, and nothing is written to it, even when only one copy is of that version.
func TestUnknownFormatIsRefused(t *testing.T) {
	for _, c := range []struct {
		what   string
		spoil  func(b []byte)
		copies []uint64
		want   string
	}{
		{"version 3", func(b []byte) { le.PutUint32(b[8:], 3) }, []uint64{0, 1, 2, 3}, "superblock copy 0: format version 3, this program knows version 2 only: "},
		{"version 0", func(b []byte) { le.PutUint32(b[8:], 0) }, []uint64{0, 1, 2, 3}, "superblock copy 0: format version 0, "},
		{"a feature", func(b []byte) { b[23] = 0x80 }, []uint64{0, 1, 2, 3}, "superblock copy 0: feature flags 0x8000000000000000 are not known to this program: "},
		{"half a conversion", func(b []byte) { le.PutUint32(b[8:], 3) }, []uint64{2, 3}, "superblock copy 2: format version 3, "},
		{"one copy", func(b []byte) { le.PutUint32(b[8:], 3) }, []uint64{3}, "superblock copy 3: format version 3, "},
	} {
		devs := historyDevices(64)
		if _, err := Format(devs, historyFormat()); err != nil {
			t.Fatal(err)
		}
		for _, i := range c.copies {
			b := make([]byte, BlockSize)
			devs.ReadAt(0, b, blocksToBytes(i*superblockStride))
			c.spoil(b)
			le.PutUint64(b[BlockSize-8:], Sum(b[:BlockSize-8]))
			devs.WriteAt(0, b, blocksToBytes(i*superblockStride))
		}
		devs = devs.Reopen()
		before := devs.Digest()
		_, openErr := Open(devs, Options{Manual: true})
		_, checkErr := Check(devs, CheckOptions{})
		dumpErr := Dump(devs, DumpSections(), func(Line) error { return nil })
		for what, err := range map[string]error{"open": openErr, "check": checkErr, "dump": dumpErr} {
			var ce *CorruptionError
			if !errors.Is(err, ErrUnknownFormat) || errors.As(err, &ce) || !strings.HasPrefix(err.Error(), "sim0: "+c.want) {
				t.Errorf("%s, %s: %v", c.what, what, err)
			}
		}
		if devs.Digest() != before || !devs.Unchanged() {
			t.Errorf("%s: something was written", c.what)
		}
	}
}

func FuzzSuperblock(f *testing.F) {
	s := &superblock{version: FormatVersion, name: "pool", zones: zones{extentBlocks: 64, root: 256, rootBlocks: 3, journal: 262, journalLen: 512,
		tables: 774, tablePairs: 60, data: 896}, devices: []poolDevice{{blocks: 2000}, {base: 2048, blocks: 2000}}}
	f.Add(s.encode(0)[:200])
	f.Add([]byte(superblockMagic))
	f.Fuzz(func(t *testing.T, in []byte) {
		b := make([]byte, BlockSize) // with a good checksum, so that the fields are reached
		copy(b[:BlockSize-8], in)
		le.PutUint64(b[BlockSize-8:], Sum(b[:BlockSize-8]))
		got, err := decodeSuperblock(b, 0)
		if err != nil {
			return
		}
		again, err := decodeSuperblock(got.encode(0), 0)
		if err != nil {
			t.Fatalf("accepted, but not what it encodes to: %v", err)
		}
		if d := cmp.Diff(got, again, allowUnexported); d != "" {
			t.Fatal(d)
		}
		if _, err := decodeSuperblock(in, 0); err == nil && !bytes.Equal(in, b) {
			t.Fatal("accepted without its checksum")
		}
	})
}
