package primary

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/farside-storage/farside/wire"
)

// IntentLog is what a write-intent log says. All integers in it are little-endian on disk.
type IntentLog struct {
	Seq     uint64 // of the snapshot
	Region  uint64 // bytes
	Groups  []IntentGroup
	Volumes []IntentVolume
	Left    []IntentLeft
	// File is where it was found: 0 or 1.
	File int
	// Repaired lists records that were damaged and read from their second copy.
	Repaired []string
	// Problem says why the log is of no use, "" if it is.
	Problem string
}

// IntentGroup is the newest CG of a group that was known to be final, the highest epoch that was obeyed, and the name
// of the manager that had it, "" if not known.
type IntentGroup struct {
	Name    string
	Final   uint64
	Epoch   uint64
	Manager string
}

// IntentVolume has a bit for each region of a volume that may differ from its copies.
type IntentVolume struct {
	Group, Name string
	Size        uint64
	Place       string // VolumeSpec.Place
	Copies      []IntentCopy
	Marks       []uint64
}

// IntentLeft is a copy of a volume that has left its group: to which volume of a secondary it was copied.
type IntentLeft struct {
	Group, Name, Place string
	Size               uint64
	Secondary          string
	Identity           wire.UUID
}

// IntentCopy says to which volume of a secondary the volume is copied, zero if to none yet, and whether that ever had
// the whole volume. If not, Lacking has a bit for each region that it may not have, in addition to the marks.
type IntentCopy struct {
	Secondary string
	Identity  wire.UUID
	Synced    bool
	Lacking   []uint64 // as long as Marks, or empty if Synced
}

// group finds what the log says of a group; nothing if it does not know it.
func (l *IntentLog) group(name string) IntentGroup {
	for _, g := range l.Groups {
		if g.Name == name {
			return g
		}
	}
	return IntentGroup{Name: name}
}

func (l *IntentLog) volume(group, name string) *IntentVolume {
	for i := range l.Volumes {
		if v := &l.Volumes[i]; v.Group == group && v.Name == name {
			return v
		}
	}
	return nil
}

// copyOn is the copy on a secondary. If the log does not know that one, but has one copy that is on none of the
// secondaries there are now, then that secondary has another address since: its identity will show if it is really
// the same.
func (v *IntentVolume) copyOn(secondary string, now []string) IntentCopy {
	var moved []IntentCopy
	for _, c := range v.Copies {
		if c.Secondary == secondary {
			return c
		}
		if !slices.Contains(now, c.Secondary) {
			moved = append(moved, c)
		}
	}
	if len(moved) == 1 && len(now) == len(v.Copies) {
		return moved[0]
	}
	return IntentCopy{} // lacks all, whatever Lacking says
}

const (
	intentMagic   = 0x314c495757534600 // "\0FSWWIL1"; its low half is no recordMagic
	intentVersion = 4
	intentOld     = 3          // without places, and without copies of volumes that have left; it is read, not written
	recordMagic   = 0x52495746 // "FWIR"
	intentAlign   = 4096       // snapshot and records begin and end at multiples: no durable sector is written twice
	snapshotFixed = 8 + 4 + 4 + 8 + 8 + 8
	recordFixed   = 4 + 4 + 8 + 8 + 8
	maxIntentName = 255
	// maxIntentPlace has room for the longest path, and some more.
	maxIntentPlace = 8192
)

// encodeSnapshot: magic u64, version u32, zero u32, length u64 (of all up to the checksum), sequence u64, region u64;
// groups: count u32, each name, final u64, epoch u64, manager; volumes: count u32, each group name, name, size u64,
// place, copies (count u32, each name, identity 16 bytes, synced u8, words u32, lacking), words u32, marks; copies
// that volumes had that have left: count u32, each group name, name, place, size u64, secondary, identity 16 bytes;
// XXH64 of all that; zeros up to a multiple of 4096. A name or place is u16 length and bytes; the manager's, and a
// place, may be empty.
func encodeSnapshot(l *IntentLog) []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(nil, intentMagic)
	b = le.AppendUint32(b, intentVersion)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, 0) // length, below
	b = le.AppendUint64(b, l.Seq)
	b = le.AppendUint64(b, l.Region)
	b = le.AppendUint32(b, uint32(len(l.Groups)))
	for _, g := range l.Groups {
		b = appendName(b, g.Name)
		b = le.AppendUint64(b, g.Final)
		b = le.AppendUint64(b, g.Epoch)
		b = appendName(b, g.Manager)
	}
	b = le.AppendUint32(b, uint32(len(l.Volumes)))
	for _, v := range l.Volumes {
		b = appendVolume(b, &v)
	}
	b = le.AppendUint32(b, uint32(len(l.Left)))
	for _, x := range l.Left {
		b = appendName(appendName(appendName(b, x.Group), x.Name), x.Place)
		b = le.AppendUint64(b, x.Size)
		b = append(appendName(b, x.Secondary), x.Identity[:]...)
	}
	le.PutUint64(b[16:], uint64(len(b)))
	return pad(le.AppendUint64(b, xxhash.Sum64(b)))
}

func appendVolume(b []byte, v *IntentVolume) []byte {
	le := binary.LittleEndian
	b = appendName(appendName(b, v.Group), v.Name)
	b = le.AppendUint64(b, v.Size)
	b = appendName(b, v.Place)
	b = le.AppendUint32(b, uint32(len(v.Copies)))
	for _, c := range v.Copies {
		b = append(appendName(b, c.Secondary), c.Identity[:]...)
		if c.Synced {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		b = appendWords(b, c.Lacking)
	}
	return appendWords(b, v.Marks)
}

func appendWords(b []byte, words []uint64) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(words)))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

func appendName(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...)
}

func pad(b []byte) []byte {
	if n := len(b) % intentAlign; n != 0 {
		b = append(b, make([]byte, intentAlign-n)...)
	}
	return b
}

// chainSum is what the record behind data repeats, so that it can follow nothing else: the checksum in
// data, a snapshot or a record that is known to be sound.
func chainSum(data []byte) uint64 {
	le := binary.LittleEndian
	end := le.Uint64(data[16:])
	if le.Uint32(data) == recordMagic {
		end = recordFixed + 8*uint64(le.Uint32(data[4:]))
	}
	return le.Uint64(data[end:])
}

// recordSize is the length of one copy of a record.
func recordSize(marks int) int64 {
	return int64(recordFixed+8*marks+8+intentAlign-1) / intentAlign * intentAlign
}

// appendRecord: magic u32, count u32, sequence of the snapshot u64, index u64, chain u64; marks, each volume<<48 |
// region; XXH64 of all that; zeros up to a multiple of 4096. Then all of it once more: of a record that was being
// written in a crash both copies may be bad, of one that is damaged later only one is.
func appendRecord(b []byte, seq, index, chain uint64, marks []mark) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, recordMagic)
	b = le.AppendUint32(b, uint32(len(marks)))
	b = le.AppendUint64(b, seq)
	b = le.AppendUint64(b, index)
	b = le.AppendUint64(b, chain)
	for _, m := range marks {
		b = le.AppendUint64(b, uint64(m.volume)<<48|m.region)
	}
	b = pad(le.AppendUint64(b, xxhash.Sum64(b)))
	return append(b, b...)
}

var errIntent = errors.New("damaged write-intent log")

// intentReader walks over a snapshot; after the first error it gives zeros.
type intentReader struct {
	b       []byte
	off     int
	version uint32
	err     error
}

func (r *intentReader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s at byte %d", errIntent, what, r.off)
	}
}

func (r *intentReader) take(n int, what string) []byte {
	if r.err == nil && len(r.b)-r.off < n {
		r.fail(what + " is cut off")
	}
	if r.err != nil {
		return make([]byte, min(n, 8))
	}
	p := r.b[r.off : r.off+n]
	r.off += n
	return p
}

func (r *intentReader) u32(what string) uint32 { return binary.LittleEndian.Uint32(r.take(4, what)) }
func (r *intentReader) u64(what string) uint64 { return binary.LittleEndian.Uint64(r.take(8, what)) }

func (r *intentReader) name(what string) string { return r.text(what, maxIntentName) }

// place of a volume; older logs have none.
func (r *intentReader) place() string {
	if r.version == intentOld {
		return ""
	}
	return r.text("place", maxIntentPlace)
}

func (r *intentReader) text(what string, most int) string {
	n := int(binary.LittleEndian.Uint16(r.take(2, what)))
	if n > most {
		r.fail(what + " is too long")
		return ""
	}
	if p := r.take(n, what); r.err == nil {
		return string(p)
	}
	return ""
}

// list reads a count of elements that take at least size bytes each, then the elements.
func (r *intentReader) list(what string, size int, f func()) {
	n := r.u32(what)
	if r.err == nil && uint64(n)*uint64(size) > uint64(len(r.b)-r.off) {
		r.fail(what + " exceed the file")
	}
	for ; n > 0 && r.err == nil; n-- {
		f()
	}
}

// decodeIntent reads one file: the snapshot, then the records behind it.
func decodeIntent(file []byte) (*IntentLog, error) {
	r := &intentReader{b: file}
	if r.u64("magic") != intentMagic {
		r.fail("no magic number")
	}
	if r.version = r.u32("version"); r.err == nil && r.version != intentVersion && r.version != intentOld {
		r.fail(fmt.Sprintf("version %d is not known", r.version))
	}
	r.u32("reserved")
	length := r.u64("length")
	if r.err == nil && (length < snapshotFixed || length > uint64(len(file))-8 || uint64(len(file)) < 8) {
		r.fail("length is wrong")
	}
	if r.err != nil {
		return nil, r.err
	}
	if xxhash.Sum64(file[:length]) != binary.LittleEndian.Uint64(file[length:]) {
		r.fail("checksum of the snapshot is wrong")
		return nil, r.err
	}
	r.b = file[:length]
	log := r.snapshot()
	if r.err == nil && r.off != len(r.b) {
		r.fail("snapshot has more bytes than fields")
	}
	if r.err != nil {
		return nil, r.err
	}
	end := min((int(length)+8+intentAlign-1)/intentAlign*intentAlign, len(file))
	return log, log.replay(file, end)
}

func (r *intentReader) snapshot() *IntentLog {
	log := &IntentLog{Seq: r.u64("sequence"), Region: r.u64("region")}
	if r.err == nil && (log.Region < BlockSize || log.Region&(log.Region-1) != 0) {
		r.fail("region is no power of two")
	}
	r.list("groups", 20, func() {
		log.Groups = append(log.Groups, IntentGroup{r.name("group name"), r.u64("final"), r.u64("epoch"), r.name("manager")})
	})
	r.list("volumes", 20, func() { log.Volumes = append(log.Volumes, r.volume(log.Region)) })
	if r.version != intentOld {
		r.list("copies of volumes that have left", 32, func() { log.Left = append(log.Left, r.left()) })
	}
	return log
}

func (r *intentReader) left() IntentLeft {
	l := IntentLeft{Group: r.name("group name"), Name: r.name("volume name"), Place: r.place(), Size: r.u64("size"), Secondary: r.name("secondary")}
	copy(l.Identity[:], r.take(len(l.Identity), "identity"))
	return l
}

func (r *intentReader) volume(region uint64) IntentVolume {
	v := IntentVolume{Group: r.name("group name"), Name: r.name("volume name"), Size: r.u64("size"), Place: r.place()}
	r.list("copies", 19, func() {
		c := IntentCopy{Secondary: r.name("secondary")}
		copy(c.Identity[:], r.take(len(c.Identity), "identity"))
		c.Synced = r.take(1, "synced")[0] == 1
		r.list("lacking", 8, func() { c.Lacking = append(c.Lacking, r.u64("lacking")) })
		v.Copies = append(v.Copies, c)
	})
	r.list("marks", 8, func() { v.Marks = append(v.Marks, r.u64("marks")) })
	if r.err == nil {
		regions := v.Size/region + min(1, v.Size%region)
		want := regions/64 + min(1, regions%64)
		if uint64(len(v.Marks)) != want {
			r.fail(fmt.Sprintf("volume %q has %d words of marks, its size wants %d", v.Name, len(v.Marks), want))
		}
		for _, c := range v.Copies {
			if n := uint64(len(c.Lacking)); n != want && !(c.Synced && n == 0) {
				r.fail(fmt.Sprintf("the copy of volume %q on %q has %d words of lacking regions, its size wants %d", v.Name, c.Secondary, n, want))
			}
		}
	}
	return v
}

// replay adds the records that follow the snapshot, which ends at off. A last record of which neither copy checks
// was being written in the crash, and no write has relied on it; but one that is followed by a sound record is damage.
func (l *IntentLog) replay(file []byte, off int) error {
	chain, index := chainSum(file[:off]), uint64(0)
	for off < len(file) {
		at := off
		marks, size, ok := parseRecord(file[at:], l.Seq, index, chain)
		if !ok {
			if marks, at, size, ok = l.second(file, off, index, chain); !ok {
				return l.nothingBehind(file, off)
			}
			l.Repaired = append(l.Repaired, fmt.Sprintf("the record at byte %d was bad; its second copy at byte %d is good", off, at))
		}
		for _, m := range marks {
			if m.volume >= len(l.Volumes) || m.region/64 >= uint64(len(l.Volumes[m.volume].Marks)) {
				return fmt.Errorf("%w: the record at byte %d marks region %d of volume number %d, which is not there", errIntent, at, m.region, m.volume)
			}
			l.Volumes[m.volume].Marks[m.region/64] |= 1 << (m.region % 64)
		}
		chain = chainSum(file[at : at+size])
		off, index = off+2*size, index+1
	}
	return nil
}

// second looks for the second copy of the record at off, whose first copy does not tell its length any more.
func (l *IntentLog) second(file []byte, off int, index, chain uint64) (marks []mark, at, size int, ok bool) {
	for at = off + intentAlign; at+recordFixed <= len(file) && at-off <= intentLogRoom; at += intentAlign {
		if marks, size, ok = parseRecord(file[at:], l.Seq, index, chain); ok && at == off+size {
			return marks, at, size, true
		}
	}
	return nil, 0, 0, false
}

// nothingBehind looks for records of this snapshot behind a bad one.
func (l *IntentLog) nothingBehind(file []byte, bad int) error {
	le := binary.LittleEndian
	for off := bad + intentAlign; off+recordFixed <= len(file); off += intentAlign {
		b := file[off:]
		if le.Uint32(b) != recordMagic || le.Uint64(b[8:]) != l.Seq {
			continue
		}
		if _, _, ok := parseRecord(b, l.Seq, le.Uint64(b[16:]), le.Uint64(b[24:])); ok {
			return fmt.Errorf("%w: the record at byte %d is bad, and sound ones follow", errIntent, bad)
		}
	}
	return nil
}

func parseRecord(b []byte, seq, index, chain uint64) (marks []mark, size int, ok bool) {
	le := binary.LittleEndian
	if len(b) < recordFixed || le.Uint32(b) != recordMagic || le.Uint64(b[8:]) != seq ||
		le.Uint64(b[16:]) != index || le.Uint64(b[24:]) != chain {
		return nil, 0, false
	}
	n := int64(le.Uint32(b[4:]))
	if n > intentLogRoom/8 || recordSize(int(n)) > int64(len(b)) {
		return nil, 0, false
	}
	end := recordFixed + 8*int(n)
	if xxhash.Sum64(b[:end]) != le.Uint64(b[end:]) {
		return nil, 0, false
	}
	for i := recordFixed; i < end; i += 8 {
		w := le.Uint64(b[i:])
		marks = append(marks, mark{int(w >> 48), w & (1<<48 - 1)})
	}
	return marks, int(recordSize(int(n))), true
}

// LoadIntent makes out what the two files of a write-intent log say. It always gives a log; if Problem is
// set it knows nothing, and every volume has to be copied as a whole.
func LoadIntent(files [2][]byte) *IntentLog {
	var sound *IntentLog
	var problems []error
	for i, f := range files {
		if len(f) == 0 {
			continue
		}
		l, err := decodeIntent(f)
		if err != nil {
			problems = append(problems, fmt.Errorf("file %d: %w", i, err))
			continue
		}
		l.File = i
		if sound == nil || l.Seq > sound.Seq {
			sound = l
		}
	}
	switch {
	case sound != nil: // a damaged file beside it was being written and never in use
		return sound
	case len(problems) == 0:
		return &IntentLog{Problem: "there is no write-intent log"}
	}
	return &IntentLog{Problem: errors.Join(problems...).Error()}
}
