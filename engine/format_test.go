package engine

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/ring/ringtest"
)

var update = flag.Bool("update", false, "rewrite testdata and the dump in FORMAT.md with what the code does now")

const goldenMeans = `The bytes on the devices have changed. Pools that users have would be read differently, or no longer.
If that is meant: raise FormatVersion, or add a feature flag that older programs refuse; say in FORMAT.md what changed
(tables and version history); keep the old bytes readable or write how to convert; then run "go test ./engine -run Format -update".
If it is not meant, the change is a bug.`

// TestFormatBytes pins the bytes of every structure.
func TestFormatBytes(t *testing.T) {
	devs := ringtest.MustNew(ringtest.Options{Seed: 80}, ringtest.Spec{Size: 8 << 20}, ringtest.Spec{Size: 4 << 20})
	o := historyFormat()
	o.Name, o.Created = "golden", 1700000000
	if _, err := Format(devs, o); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	pool := UUID{1}
	device := func(what string, dev int, block, n uint64) {
		b := make([]byte, n*BlockSize)
		devs.ReadAt(dev, b, blocksToBytes(block))
		writeHex(&out, fmt.Sprintf("%s: device %d, block %d", what, dev, block), b)
	}
	for dev := range 2 {
		for i := range uint64(superblockCopies) {
			device(fmt.Sprintf("superblock copy %d", i), dev, i*superblockStride, 1)
		}
	}
	z, _, err := planLayout(devs.Info(), o)
	if err != nil {
		t.Fatal(err)
	}
	device("root 0", 0, z.rootSlot(0), 2)
	device("root 1", 0, z.rootSlot(1), 2)

	r := &root{checkpoint: 9, tail: journalPos{block: 700, seq: 33, prev: 0x1122334455667788}, nextGroup: 2, nextVolume: 5,
		groups:  []catalogGroup{{id: 2, state: groupState{name: "bank", epoch: 3, final: 10, linked: 11, complete: 12, through: 8}, folded: 9}},
		volumes: []catalogVolume{{id: 5, group: 2, size: 1 << 30, name: "debit", member: Membership{SetAside, 7, 10, 3}}},
		retired: []prange{{first: 900, n: 4}}, directory: []uint64{0xaabbccddeeff0010, 0, 0xaabbccddeeff0011}}
	body := padBody(r.encodeBody())
	writeHex(&out, "a root's header", r.encodeHeader(pool, body, len(r.encodeBody())))
	writeHex(&out, "a root's body", body)

	page := make([]byte, BlockSize)
	encodePage(page, 5, 7, 9, func(i int) uint64 { return uint64(makeEntry(PBlock(1000+i), 0xfedcba9876543210)) }, 3)
	writeHex(&out, "a table page", page)

	buf := make([]byte, pieceHeader, pieceBytes)
	for _, x := range oneOfEachRecord() {
		buf = appendRecord(buf, x)
	}
	writeHex(&out, "a journal piece with every kind of record", sealPiece(buf, pool, &piece{seq: 33, prev: 0x99, durable: 31, flags: pieceTwin, length: uint32(len(buf) - pieceHeader)}))
	golden(t, "testdata/format.hex", out.String(), goldenMeans)
}

func oneOfEachRecord() []record {
	var part []byte
	part = appendPartEntry(part, 0, logEntry{1000, 0xfedcba9876543210}, makeEntry(2000, 0x123456789abcdef0))
	part = appendPartEntry(part, 9, logEntry{1001, 0x0fedcba987654321}, 0)
	return []record{
		{kind: recGroup, group: 2, name: "bank"},
		{kind: recVolume, group: 2, volume: 5, size: 1 << 30, name: "debit", standing: Awaited},
		{kind: recVolumeDelete, group: 2, volume: 4},
		{kind: recFence, group: 2, epoch: 3},
		{kind: recMember, group: 2, volume: 5, cg: 11, standing: SetAside, turn: 1},
		{kind: recMember, group: 2, volume: 5, standing: Unattached, turn: 2},
		{kind: recMember, group: 2, volume: 5, standing: Awaited, turn: 3},
		{kind: recBegin, group: 2, cg: 12},
		{kind: recWhole, group: 2, volume: 5, cg: 12, turn: 3},
		{kind: recZeroes, group: 2, volume: 5, cg: 12, body: appendRange(nil, vrange{100, 50})},
		{kind: recPart, group: 2, volume: 5, cg: 12, base: 70, body: part},
		{kind: recComplete, group: 2, cg: 12, entries: 4},
		{kind: recLinked, group: 2, cg: 12, epoch: 3},
		{kind: recReverted, group: 2, cg: 12, epoch: 3, through: 14},
		{kind: recFinal, group: 2, cg: 12, epoch: 3},
		{kind: recRetired, first: 900, blocks: 4},
	}
}

// writeHex prints 16 bytes a line and leaves lines of zeros out.
func writeHex(out *strings.Builder, title string, b []byte) {
	fmt.Fprintf(out, "== %s (%d bytes)\n", title, len(b))
	for i := 0; i < len(b); i += 16 {
		if line := b[i : i+16]; string(line) != string(make([]byte, 16)) {
			fmt.Fprintf(out, "%06x  % x  % x\n", i, line[:8], line[8:])
		}
	}
}

func golden(t *testing.T, path, got, means string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Fatalf("%s\n(-%s +now)\n%s", means, path, d)
	}
}

// TestFormatDocument: the dump in FORMAT.md is what the code prints.
func TestFormatDocument(t *testing.T) {
	r := &rig{t: t, devs: ringtest.MustNew(ringtest.Options{Seed: 81}, ringtest.Spec{Size: 8 << 20})}
	n := byte(0)
	o := FormatOptions{Name: "tiny", ExtentBlocks: 64, VirtualBytes: 4 << 20, Created: 1700000000, NewUUID: func() UUID { n++; return UUID{0: n, 15: n} }}
	if _, err := Format(r.devs, o); err != nil {
		t.Fatal(err)
	}
	r.open()
	debit, credit := r.volume("bank", "debit", 16), r.volume("bank", "credit", 600)
	r.put(debit, 1, 3, 1)
	r.put(credit, 1, 0, 1)
	r.put(credit, 1, 599, 1)
	r.seal(1, debit, credit)
	r.commit(debit.group, 1)
	if err := r.pool.Checkpoint(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.put(debit, 2, 3, 2)
	if err := r.w.Zero(credit, 2, 500, 100); err != nil {
		t.Fatal(err)
	}
	r.seal(2, debit, credit)
	if err := errors.Join(debit.group.Fence(context.Background(), 1), debit.group.Link(context.Background(), Command{1, 2})); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Dump(r.devs.Crash(ringtest.None), DumpSections(), func(l Line) error {
		fmt.Fprintln(&out, strings.TrimRight(l.String(), " "))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	const path, begin, end = "FORMAT.md", "```dump\n", "```\n"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(doc), begin)
	shown, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no dump between %q and %q", path, begin, end)
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+begin+out.String()+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(shown, out.String()); d != "" {
		t.Fatalf("run \"go test ./engine -run Format -update\" and read what changed (-FORMAT.md +now)\n%s", d)
	}
}

// TestFormatDocumentNamesWhatTheCodeHas: every kind of record and every magic stands in FORMAT.md.
func TestFormatDocumentNamesWhatTheCodeHas(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	for k := recPart; k <= lastRecord; k++ {
		if want := fmt.Sprintf("| %d | %v |", k, k); !strings.Contains(text, want) {
			t.Errorf("FORMAT.md has no row %q", want)
		}
	}
	for _, want := range []string{`"FARSIDE\0"`, `"FSROOT1\0"`, `"FSJRNL1\0"`, `"FST1"`, fmt.Sprintf("| %d |", FormatVersion),
		fmt.Sprintf("%d entries", tablePageEntries)} {
		if !strings.Contains(text, want) {
			t.Errorf("FORMAT.md does not name %s", want)
		}
	}
}
