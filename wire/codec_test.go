package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// Generators of valid messages.

func genName(t *rapid.T, label string) string {
	return rapid.StringMatching(`[a-zäß中 /_.-]{1,40}`).Draw(t, label)
}

func genText(t *rapid.T) string {
	return rapid.StringN(0, 300, MaxText).Draw(t, "text")
}

func genUUID(t *rapid.T) (u UUID) {
	copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
	return u
}

func genCommand(t *rapid.T) Command {
	return Command{Group: genName(t, "group"), Epoch: genU64(t), CG: genU64(t)}
}

func genU64(t *rapid.T) uint64 { return rapid.Uint64().Draw(t, "u64") }

func genRange(t *rapid.T) Zeroes {
	z := Zeroes{
		Volume: rapid.Uint32Range(0, MaxVolumes-1).Draw(t, "volume"),
		Block:  rapid.Uint64Range(0, MaxBlocks-1).Draw(t, "block"),
	}
	z.Count = rapid.Uint64Range(1, MaxBlocks-z.Block).Draw(t, "count")
	return z
}

func genManifest(t *rapid.T) *Manifest {
	m := &Manifest{CG: rapid.Uint64Min(1).Draw(t, "cg")}
	handles := rapid.SliceOfNDistinct(rapid.Uint32Range(0, MaxVolumes-1), 1, 30, rapid.ID[uint32]).Draw(t, "handles")
	present := make(map[uint32]bool)
	for _, h := range handles {
		present[h] = true
	}
	for h := range uint32(MaxVolumes) {
		if present[h] {
			m.Volumes = append(m.Volumes, VolumeManifest{Volume: h, Blocks: genU64(t), Updates: genU64(t), Digest: genU64(t), Partial: rapid.Bool().Draw(t, "partial")})
		}
	}
	return m
}

func genHello(t *rapid.T) *Hello {
	features := genU64(t)
	return &Hello{Version: Version, Features: features, Required: features & genU64(t),
		Role: Role(rapid.Uint8Range(1, 4).Draw(t, "role")), Node: genName(t, "node"), Instance: genUUID(t)}
}

func genAttach(t *rapid.T) *Attach {
	m := &Attach{Group: genName(t, "group"), Stream: genUUID(t)}
	for range rapid.IntRange(1, 20).Draw(t, "volumes") {
		m.Volumes = append(m.Volumes, VolumeRef{Name: genName(t, "volume"), Size: BlockSize * rapid.Uint64Range(1, MaxBlocks-1).Draw(t, "size")})
	}
	return m
}

// genMessage gives a valid message of type ty, nil for Updates.
func genMessage(t *rapid.T, ty Type) Message {
	boolean := func() bool { return rapid.Bool().Draw(t, "bool") }
	switch ty {
	case TypeHello:
		return genHello(t)
	case TypeAttach:
		return genAttach(t)
	case TypeAttached:
		m := &Attached{Complete: genU64(t), Window: genU64(t), Resumed: boolean()}
		if m.Resumed {
			m.Applied = genU64(t)
		}
		for range rapid.IntRange(1, 20).Draw(t, "volumes") {
			id := genUUID(t)
			id[0] |= 1 // not zero
			m.Volumes = append(m.Volumes, VolumeState{id, boolean(), boolean()})
		}
		return m
	case TypeUpdates:
		return nil
	case TypeZeroes:
		return &ZeroRanges{CG: rapid.Uint64Min(1).Draw(t, "cg"), Ranges: rapid.SliceOfN(rapid.Custom(genRange), 1, 20).Draw(t, "ranges")}
	case TypeManifest:
		return genManifest(t)
	case TypeCredit:
		return &Credit{Applied: genU64(t)}
	case TypeOpen:
		return &Open{Command: genCommand(t), Final: genU64(t)}
	case TypeHold:
		return &Hold{Command: genCommand(t), TimeoutMicros: genU64(t)}
	case TypeThawed:
		return &Thawed{Command: genCommand(t), OK: boolean()}
	case TypeDrained:
		return &Drained{Command: genCommand(t), Blocks: genU64(t)}
	case TypeQuery:
		return &Query{genCommand(t), boolean()}
	case TypeState:
		return &State{Command: genCommand(t), Final: genU64(t), Linked: genU64(t), Complete: genU64(t), Receiving: genU64(t),
			PoolFull: boolean(), Failed: genText(t), Instance: genUUID(t), FreeBlocks: genU64(t), Awaited: genU64(t), Lacking: genU64(t), LackingThen: genU64(t)}
	case TypeRevert:
		return &Revert{Command: genCommand(t), Discard: boolean(), Through: genU64(t), Final: genU64(t)}
	case TypeLost:
		return &Lost{Command: genCommand(t), Reason: genText(t)}
	case TypeStatus:
		return &Status{JSON: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "json")}
	case TypeStatusReply:
		return &StatusReply{JSON: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "json")}
	case TypeVolume:
		v := &Volume{Group: genName(t, "group"), Name: genName(t, "name"),
			Action: rapid.SampledFrom([]VolumeAction{VolumeMake, VolumeDelete, VolumeSetAside, VolumeRejoin}).Draw(t, "action")}
		if v.Action == VolumeMake {
			v.Size = BlockSize * rapid.Uint64Range(1, MaxBlocks-1).Draw(t, "blocks")
		}
		return v
	case TypeGroupChange:
		g := &GroupChange{Group: genName(t, "group"), Action: rapid.SampledFrom([]GroupAction{GroupPause, GroupResume, GroupSet, GroupAdd, GroupRemove}).Draw(t, "action")}
		if g.Action >= GroupSet {
			g.JSON = rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "json")
		}
		return g
	case TypeReload:
		return &Reload{}
	case TypePing:
		return &Ping{Token: genU64(t)}
	case TypePong:
		return &Pong{Token: genU64(t)}
	case TypeError:
		return &Error{Code: ErrorCode(rapid.Uint16Min(1).Draw(t, "code")), Frame: genU64(t), Group: rapid.SampledFrom([]string{"", "g"}).Draw(t, "group"), CG: genU64(t), Text: genText(t)}
	}
	m := types[ty].make() // a bare command
	*m.(Commanded).Head() = genCommand(t)
	return m
}

// eachControlType runs f for every message type that has a struct.
func eachControlType(t *testing.T, f func(t *testing.T, ty Type)) {
	for ty := range types {
		if Type(ty).known() && types[ty].make != nil {
			t.Run(types[ty].name, func(t *testing.T) { f(t, Type(ty)) })
		}
	}
}

func TestTypesAreTheirStructs(t *testing.T) {
	eachControlType(t, func(t *testing.T, ty Type) {
		m := types[ty].make()
		if m.Type() != ty {
			t.Errorf("%T has type %v", m, m.Type())
		}
		if got := strings.TrimPrefix(fmt.Sprintf("%T", m), "*wire."); got != ty.String() && ty != TypeZeroes {
			t.Errorf("type %v is struct %s", ty, got)
		}
		if types[ty].from == 0 || types[ty].to == 0 {
			t.Error("nobody may send it")
		}
	})
	if n := int(TypeReload) + 1; len(types) != n {
		t.Errorf("the table has %d types, there are %d", len(types), n)
	}
}

func TestRoundTrip(t *testing.T) {
	eachControlType(t, func(t *testing.T, ty Type) {
		rapid.Check(t, func(t *rapid.T) {
			want := genMessage(t, ty)
			body, err := Append([]byte("before"), want)
			if err != nil {
				t.Fatal(err)
			}
			body = body[len("before"):]
			got, err := Decode(ty, body)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
				t.Fatal(d)
			}
			// Into a used struct: nothing of the old contents may shine through.
			used := genMessage(t, ty)
			if err := DecodeInto(used, body); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, used, cmpopts.EquateEmpty()); d != "" {
				t.Fatal("into a used struct:", d)
			}
		})
	})
}

func TestTruncatedAndTrailing(t *testing.T) {
	eachControlType(t, func(t *testing.T, ty Type) {
		rapid.Check(t, func(t *rapid.T) {
			body, err := Append(nil, genMessage(t, ty))
			if err != nil {
				t.Fatal(err)
			}
			for n := range body {
				var fe *FormatError
				if _, err := Decode(ty, body[:n]); !errors.As(err, &fe) {
					t.Fatalf("first %d of %d bytes: error %v", n, len(body), err)
				} else if fe.Type != ty || fe.Field == "" || fe.Offset > n || fe.Reason == "" {
					t.Fatalf("first %d of %d bytes: error does not say where: %+v", n, len(body), fe)
				}
			}
			if _, err := Decode(ty, append(body, 0)); !errors.Is(err, ErrProtocol) {
				t.Fatalf("a byte too many: error %v", err)
			}
		})
	})
}

// encodeRaw lays out fields without any check, as a broken peer would.
func encodeRaw(fields ...any) []byte {
	var b []byte
	for _, f := range fields {
		switch v := f.(type) {
		case uint8:
			b = append(b, v)
		case uint16:
			b = le.AppendUint16(b, v)
		case uint32:
			b = le.AppendUint32(b, v)
		case uint64:
			b = le.AppendUint64(b, v)
		case string:
			b = append(le.AppendUint16(b, uint16(len(v))), v...)
		case UUID:
			b = append(b, v[:]...)
		case int: // so many zero bytes
			b = append(b, make([]byte, v)...)
		default:
			panic(fmt.Sprintf("%T", f))
		}
	}
	return b
}

func TestRefusedFields(t *testing.T) {
	const e, n = uint64(1), uint64(2) // an epoch, a CG
	long := strings.Repeat("x", MaxName+1)
	for _, c := range []struct {
		name  string
		ty    Type
		field string
		off   int
		body  []byte
	}{
		{"role 0", TypeHello, "role", 20, encodeRaw(uint32(1), e, uint64(0), uint8(0), "n", UUID{})},
		{"role 5", TypeHello, "role", 20, encodeRaw(uint32(1), e, uint64(0), uint8(5), "n", UUID{})},
		{"required not a feature", TypeHello, "required", 12, encodeRaw(uint32(1), e, uint64(2), uint8(1), "n", UUID{})},
		{"no node", TypeHello, "node", 21, encodeRaw(uint32(1), e, uint64(0), uint8(1), "", UUID{})},
		{"long group", TypeLink, "group", 0, encodeRaw(long, e, n)},
		{"no group", TypeLink, "group", 0, encodeRaw("", e, n)},
		{"group not UTF-8", TypeLink, "group", 0, encodeRaw("\xff", e, n)},
		{"newline in group", TypeLink, "group", 0, encodeRaw("a\nb", e, n)},
		{"newline in group", TypeError, "group", 10, encodeRaw(uint16(1), e, "a\nb", n, "")},
		{"code 0", TypeError, "code", 0, encodeRaw(uint16(0), e, "", n, "")},
		{"long text", TypeLost, "reason", 19, encodeRaw("g", e, n, strings.Repeat("x", MaxText+1))},
		{"bool 2", TypeThawed, "ok", 19, encodeRaw("g", e, n, uint8(2))},
		{"no volumes", TypeAttach, "volumes", 19, encodeRaw("g", UUID{}, uint32(0))},
		{"too many volumes", TypeAttach, "volumes", 19, encodeRaw("g", UUID{}, uint32(MaxVolumes+1), 1<<20)},
		{"more volumes than bytes", TypeAttach, "volumes", 19, encodeRaw("g", UUID{}, uint32(2), 21)},
		{"odd size", TypeAttach, "volume size", 26, encodeRaw("g", UUID{}, uint32(1), "v", uint64(4095))},
		{"size 0", TypeAttach, "volume size", 26, encodeRaw("g", UUID{}, uint32(1), "v", uint64(0))},
		{"applied but not resumed", TypeAttached, "applied", 0, encodeRaw(uint64(3), uint8(0), n, n)},
		{"CG 0", TypeManifest, "cg", 0, encodeRaw(uint64(0), uint32(1), 29)},
		{"volume twice", TypeManifest, "volume", 41, encodeRaw(n, uint32(2), 29, 29)},
		{"large handle", TypeManifest, "volume", 12, encodeRaw(n, uint32(1), uint32(MaxVolumes), 25)},
		{"CG 0", TypeZeroes, "cg", 0, encodeRaw(uint64(0), uint32(1), uint32(0), 8, uint64(1), uint64(1))},
		{"reserved", TypeZeroes, "reserved", 12, encodeRaw(n, uint32(1), uint32(1), 8, uint64(1), uint64(1))},
		{"reserved", TypeZeroes, "reserved", 20, encodeRaw(n, uint32(1), uint32(0), uint32(0), uint32(9), uint64(1), uint64(1))},
		{"count 0", TypeZeroes, "count", 16, encodeRaw(n, uint32(1), uint32(0), 8, uint64(1), uint64(0))},
		{"past the end", TypeZeroes, "block", 16, encodeRaw(n, uint32(1), uint32(0), 8, MaxBlocks, uint64(1))},
		{"past the end", TypeZeroes, "block", 16, encodeRaw(n, uint32(1), uint32(0), 8, uint64(1), MaxBlocks)},
		{"overflow", TypeZeroes, "block", 16, encodeRaw(n, uint32(1), uint32(0), 8, uint64(1), ^uint64(0))},
		{"large handle", TypeZeroes, "volume", 16, encodeRaw(n, uint32(1), uint32(0), uint32(MaxVolumes), uint32(0), uint64(1), uint64(1))},
		{"volume without a size", TypeVolume, "size", 7, encodeRaw("g", "n", uint8(VolumeMake), uint64(0))},
		{"volume deleted with a size", TypeVolume, "size", 7, encodeRaw("g", "n", uint8(VolumeDelete), uint64(BlockSize))},
		{"volume of part of a block", TypeVolume, "size", 7, encodeRaw("g", "n", uint8(VolumeMake), uint64(BlockSize+1))},
		{"no action", TypeVolume, "action", 6, encodeRaw("g", "n", uint8(0), uint64(0))},
		{"action past the last", TypeVolume, "action", 6, encodeRaw("g", "n", uint8(5), uint64(0))},
		{"partial 2", TypeManifest, "partial", 40, encodeRaw(n, uint32(1), uint32(0), n, n, n, uint8(2))},
		{"no action", TypeGroupChange, "action", 3, encodeRaw("g", uint8(0), uint32(0))},
		{"action past the last", TypeGroupChange, "action", 3, encodeRaw("g", uint8(6), uint32(0))},
		{"set without tunables", TypeGroupChange, "json", 4, encodeRaw("g", uint8(GroupSet), uint32(0))},
		{"pause with tunables", TypeGroupChange, "json", 4, encodeRaw("g", uint8(GroupPause), uint32(2), 2)},
		{"json longer than the body", TypeStatus, "json", 0, encodeRaw(uint32(5), 4)},
		{"json too long", TypeStatus, "json", 0, encodeRaw(uint32(MaxStatus+1), MaxStatus+1)},
	} {
		t.Run(c.ty.String()+" "+c.name, func(t *testing.T) {
			_, err := Decode(c.ty, c.body)
			var fe *FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("error %v", err)
			}
			if fe.Field != c.field || fe.Offset != c.off {
				t.Errorf("error names field %q at %d, want %q at %d: %v", fe.Field, fe.Offset, c.field, c.off, err)
			}
		})
	}
}

func TestEncoderRefusesWhatDecoderWould(t *testing.T) {
	for _, m := range []Message{
		&Link{Command{Group: ""}},
		&Link{Command{Group: strings.Repeat("x", 1<<16)}},
		&Attach{Group: "g"},
		&Attach{Group: "g", Volumes: []VolumeRef{{"v", 5}}},
		&Manifest{CG: 1, Volumes: []VolumeManifest{{Volume: 1}, {Volume: 0}}},
		&ZeroRanges{CG: 1, Ranges: []Zeroes{{}}},
		&StatusReply{JSON: make([]byte, MaxStatus+1)},
		&Error{},
	} {
		if b, err := Append([]byte("kept"), m); !errors.Is(err, ErrProtocol) || string(b) != "kept" {
			t.Errorf("%T: error %v, %d bytes", m, err, len(b))
		}
	}
}

// A text is shortened and repaired, never refused: it reports something else that went wrong.
func TestTextsAreRepaired(t *testing.T) {
	for in, want := range map[string]string{
		"a\xffb":                                     "a\uFFFDb",
		strings.Repeat("x", MaxText+9):               strings.Repeat("x", MaxText),
		"x" + strings.Repeat("ß", MaxText/2):         "x" + strings.Repeat("ß", MaxText/2-1),
		strings.Repeat("\xff", MaxText/3) + "abcdef": strings.Repeat("\uFFFD", 1) + "abcdef",
	} {
		m := &Error{Code: CodeIO, Text: in}
		b, err := Append(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		if m.Text != in {
			t.Error("the sender's message was changed")
		}
		got, err := Decode(TypeError, b)
		if err != nil {
			t.Fatal(err)
		}
		if got := got.(*Error).Text; got != want {
			t.Errorf("%.20q became %.20q (%d bytes), want %d", in, got, len(got), len(want))
		}
	}
}

// Hello of another version must be readable as far as the version, or it could not be
// refused with a clear message.
func TestHelloOfAnotherVersion(t *testing.T) {
	m, err := Decode(TypeHello, encodeRaw(uint32(9), uint64(3), uint64(1), "whatever comes then"))
	if err != nil {
		t.Fatal(err)
	}
	if h := m.(*Hello); h.Version != 9 || h.Features != 3 {
		t.Errorf("got %+v", h)
	}
}

func TestLargestMessagesFit(t *testing.T) {
	name := strings.Repeat("x", MaxName)
	attach := &Attach{Group: name, Volumes: make([]VolumeRef, MaxVolumes)}
	manifest := &Manifest{CG: 1, Volumes: make([]VolumeManifest, MaxVolumes)}
	zeroes := &ZeroRanges{CG: 1, Ranges: make([]Zeroes, MaxZeroRanges)}
	for i := range attach.Volumes {
		attach.Volumes[i] = VolumeRef{name, BlockSize}
		manifest.Volumes[i].Volume = uint32(i)
	}
	for i := range zeroes.Ranges {
		zeroes.Ranges[i].Count = 1
	}
	for _, m := range []Message{attach, manifest, zeroes, &StatusReply{JSON: make([]byte, MaxStatus)}} {
		b, err := Append(nil, m)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		if _, err := Decode(m.Type(), b); err != nil {
			t.Fatalf("%T: %v", m, err)
		}
	}
	if n := updatesFixed + MaxUpdateBlocks*(descriptorSize+8); n > MaxBody {
		t.Errorf("the largest Updates has a body of %d bytes", n)
	}
}

// A count that lies must not cost memory.
func TestLyingCountTakesNoMemory(t *testing.T) {
	body := encodeRaw(uint64(1), uint32(MaxVolumes), 29)
	m := &Manifest{}
	if got := testing.AllocsPerRun(10, func() {
		if DecodeInto(m, body) == nil {
			t.Error("decoded")
		}
	}); got > 10 { // those of the error
		t.Errorf("%v allocations", got)
	}
	if cap(m.Volumes) != 0 {
		t.Errorf("memory for %d volumes", cap(m.Volumes))
	}
}
