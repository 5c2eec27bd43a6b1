package sim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/farside-storage/farside/engine"
)

// Replay is a run that can be written down and done again: the system, what is done to it, and the seed from which it
// is drawn how long each message, request and pause takes.
type Replay struct {
	Seed   uint64
	Ops    []Op
	system config
}

// Draw makes the run of a seed.
func Draw(seed uint64) Replay {
	c := drawConfig(seed)
	return Replay{Seed: seed, Ops: drawOps(seed, c), system: *c}
}

const (
	replayMagic = "farside sim replay "
	// replayVersion 2: the file holds the system; in version 1 it was drawn from the seed.
	replayVersion = 2
)

// ErrReplay says that a file is not a replay, or not one that can be run.
var ErrReplay = errors.New("not a replay file")

// maxReplayLines bounds what is read.
const maxReplayLines = 100_000

// WriteTo writes the replay as text.
func (r Replay) WriteTo(to io.Writer) (int64, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%d\nseed %d\n", replayMagic, replayVersion, r.Seed)
	for _, s := range r.system.sections() {
		if s.optional && s.empty() {
			continue
		}
		b.WriteString(s.name)
		for _, f := range s.fields {
			fmt.Fprintf(&b, " %s=%s", f.key, f.text())
		}
		b.WriteByte('\n')
	}
	for i, v := range r.system.volumes {
		var to []string
		for _, s := range v.to {
			to = append(to, fmt.Sprintf("s%d", s))
		}
		fmt.Fprintf(&b, "volume v%d primary=p%d blocks=%d to=%s\n", i, v.primary, v.blocks, strings.Join(to, ","))
	}
	if r.system.changes {
		fmt.Fprintln(&b, strings.Join(append([]string{"absent"}, r.system.absent...), " "))
	}
	if r.system.moves {
		fmt.Fprintln(&b, strings.Join(append([]string{"late"}, r.system.late...), " "))
	}
	for _, o := range r.Ops {
		fmt.Fprintln(&b, o)
	}
	n, err := io.WriteString(to, b.String())
	return int64(n), err
}

// section is a line of a replay that says something of the system.
type section struct {
	name     string
	fields   []field
	optional bool // may be missing if all is zero
}

func (s section) empty() bool {
	return !slices.ContainsFunc(s.fields, func(f field) bool { return f.text() != "0" })
}

// field is a number or duration of it.
type field struct {
	key string
	to  any // *int, *int64, *uint64, *float64 or *time.Duration
}

func (c *config) sections() []section {
	m, p := &c.settings, &c.core
	return []section{
		{"system", []field{{"primaries", &c.primaries}, {"secondaries", &c.secondaries}, {"sector", &c.sectors}, {"devices", &c.devices},
			{"spare", &c.spare}, {"journal", &c.journal}, {"writer-buffers", &c.writerBuffers}, {"writer-blocks", &c.writerBlocks},
			{"window", &c.window}}, false},
		{"times", []field{{"latency", &c.latency}, {"device", &c.device}, {"restart", &c.restart}, {"idle", &c.idle}, {"resume", &c.resume},
			{"backoff", &c.backoff}, {"recheck", &c.recheck}, {"length", &c.length}}, false},
		{"managers", []field{{"interval", &m.Interval}, {"coordination-timeout", &m.CoordinationTimeout}, {"drain-timeout", &m.DrainTimeout},
			{"command-timeout", &m.CommandTimeout}, {"rpo-alert", &m.RPOAlert}}, false},
		{"cores", []field{{"queue", &p.QueueBytes}, {"catchup-reads", &p.CatchupReads}, {"catchup-bytes", &p.CatchupBytes},
			{"intent-region", &p.IntentRegion}, {"intent-linger", &p.IntentLinger}}, false},
		{"first-copies", []field{{"rest", &p.FirstCopyRest}, {"rate", &p.FirstCopyRate}}, true},
	}
}

func (f field) text() string {
	switch v := f.to.(type) {
	case *int:
		return strconv.Itoa(*v)
	case *int64:
		return strconv.FormatInt(*v, 10)
	case *uint64:
		return strconv.FormatUint(*v, 10)
	case *float64:
		return strconv.FormatFloat(*v, 'g', -1, 64)
	case *time.Duration:
		return v.String()
	}
	panic(fmt.Sprintf("sim: a field of type %T", f.to))
}

func (f field) parse(text string) (err error) {
	switch v := f.to.(type) {
	case *int:
		*v, err = strconv.Atoi(text)
	case *int64:
		*v, err = strconv.ParseInt(text, 10, 64)
	case *uint64:
		*v, err = strconv.ParseUint(text, 10, 64)
	case *float64:
		*v, err = strconv.ParseFloat(text, 64)
	case *time.Duration:
		*v, err = time.ParseDuration(text)
	default:
		panic(fmt.Sprintf("sim: a field of type %T", f.to))
	}
	return err
}

// replayReader reads what WriteTo wrote; lines that begin with # are comments.
type replayReader struct {
	r      Replay
	n      int // lines
	headed bool
	seeded bool
	said   map[string]bool // sections
}

// ReadReplay reads what WriteTo wrote.
func ReadReplay(from io.Reader) (Replay, error) {
	p := &replayReader{r: Replay{Ops: []Op{}}, said: map[string]bool{}}
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		if p.n++; p.n > maxReplayLines {
			return Replay{}, fmt.Errorf("%w: more than %d lines", ErrReplay, maxReplayLines)
		}
		line := strings.TrimSpace(lines.Text())
		if p.headed && (line == "" || strings.HasPrefix(line, "#")) {
			continue
		}
		if err := p.take(line); err != nil {
			return Replay{}, fmt.Errorf("%w: line %d: %w", ErrReplay, p.n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return Replay{}, fmt.Errorf("%w: line %d: %w", ErrReplay, p.n+1, err)
	}
	if err := p.finish(); err != nil {
		return Replay{}, fmt.Errorf("%w: %w", ErrReplay, err)
	}
	return p.r, nil
}

func (p *replayReader) take(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch {
	case !p.headed:
		return p.header(line)
	case !p.seeded:
		seed, err := strconv.ParseUint(rest, 10, 64)
		if word != "seed" || err != nil {
			return fmt.Errorf("%q: want \"seed NUMBER\"", line)
		}
		p.r.Seed, p.seeded = seed, true
		return nil
	case word == "volume":
		return p.volume(rest)
	case word == "absent":
		return p.absent(rest)
	case word == "late":
		return p.late(rest)
	}
	for _, s := range p.r.system.sections() {
		if s.name == word {
			return p.section(s, rest)
		}
	}
	o, err := parseOp(line)
	p.r.Ops = append(p.r.Ops, o)
	return err
}

func (p *replayReader) header(line string) error {
	text, ok := strings.CutPrefix(line, replayMagic)
	version, err := strconv.Atoi(text)
	switch {
	case !ok || err != nil:
		return fmt.Errorf("it is not \"%s%d\"; \"farside sim\" prints a replay for each failure", replayMagic, replayVersion)
	case version != replayVersion:
		return fmt.Errorf("the replay has version %d, this farside runs version %d: run it with the farside that wrote it, or "+
			"look for the failure again with \"farside sim --seed\" and the seed in line 2", version, replayVersion)
	}
	p.headed = true
	return nil
}

func (p *replayReader) section(s section, rest string) error {
	if p.said[s.name] {
		return fmt.Errorf("a second line %q", s.name)
	}
	p.said[s.name] = true
	given := map[string]bool{}
	for _, word := range strings.Fields(rest) {
		key, value, _ := strings.Cut(word, "=")
		i := slices.IndexFunc(s.fields, func(f field) bool { return f.key == key })
		if i < 0 || given[key] {
			return fmt.Errorf("%q is unknown in %q, or there twice", key, s.name)
		}
		given[key] = true
		if err := s.fields[i].parse(value); err != nil {
			return fmt.Errorf("%q: %w", word, err)
		}
	}
	for _, f := range s.fields {
		if !given[f.key] {
			return fmt.Errorf("%q lacks %s=", s.name, f.key)
		}
	}
	return nil
}

func (p *replayReader) volume(rest string) error {
	var v volumeConfig
	i := len(p.r.system.volumes)
	words := strings.Fields(rest)
	if len(words) != 4 || words[0] != fmt.Sprintf("v%d", i) {
		return fmt.Errorf("%q: want \"volume v%d primary=pN blocks=N to=sN,sN\"", rest, i)
	}
	for k, key := range []string{"primary=p", "blocks=", "to="} {
		value, ok := strings.CutPrefix(words[k+1], key)
		if !ok {
			return fmt.Errorf("%q: want %s and a value", words[k+1], key)
		}
		var err error
		switch k {
		case 0:
			v.primary, err = strconv.Atoi(value)
		case 1:
			v.blocks, err = strconv.ParseUint(value, 10, 64)
		case 2:
			v.to, err = parseCopies(value)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", words[k+1], err)
		}
	}
	p.r.system.volumes = append(p.r.system.volumes, v)
	return nil
}

// absent reads who does not take part at first, in a run in which controls come and go.
func (p *replayReader) absent(rest string) error {
	return p.names("absent", rest, &p.r.system.changes, &p.r.system.absent)
}

// late reads which volumes are not in the group at first, in a run in which volumes come and go.
func (p *replayReader) late(rest string) error {
	return p.names("late", rest, &p.r.system.moves, &p.r.system.late)
}

// names reads a line that may be there once, and lists names, each once.
func (p *replayReader) names(line, rest string, seen *bool, to *[]string) error {
	if *seen {
		return fmt.Errorf("a second line %q", line)
	}
	*seen = true
	for _, name := range strings.Fields(rest) {
		if slices.Contains(*to, name) {
			return fmt.Errorf("%q is %s twice", name, line)
		}
		*to = append(*to, name)
	}
	return nil
}

func parseCopies(text string) ([]int, error) {
	var to []int
	for name := range strings.SplitSeq(text, ",") {
		number, ok := strings.CutPrefix(name, "s")
		n, err := strconv.Atoi(number)
		if !ok || err != nil || slices.Contains(to, n) {
			return nil, fmt.Errorf("%q is no secondary, or there twice", name)
		}
		to = append(to, n)
	}
	return to, nil
}

func (p *replayReader) finish() error {
	switch {
	case !p.headed:
		return fmt.Errorf("it is empty; \"farside sim\" prints a replay for each failure")
	case !p.seeded:
		return errors.New("it has no line \"seed NUMBER\": it was cut off")
	}
	for _, s := range p.r.system.sections() {
		if !p.said[s.name] && !s.optional {
			return fmt.Errorf("it has no line %q, which describes the system: it was cut off", s.name)
		}
	}
	return p.r.system.validate()
}

// validate keeps what was read within what can be simulated.
func (c *config) validate() error {
	within := func(what string, v, least, most int64) error {
		if v < least || v > most {
			return fmt.Errorf("%s is %d, not %d to %d", what, v, least, most)
		}
		return nil
	}
	errs := []error{
		within("primaries", int64(c.primaries), 1, 16), within("secondaries", int64(c.secondaries), 1, 16),
		within("devices", int64(c.devices), 1, 2), within("journal", c.journal, 2<<20, 16<<20),
		within("writer-buffers", int64(c.writerBuffers), 2, 64), within("writer-blocks", int64(c.writerBlocks), 1, 64),
		within("window", int64(min(c.window, 1<<40)), 1, 1<<30), within("volumes", int64(len(c.volumes)), 1, 64),
		within("queue", c.core.QueueBytes, 1, 1<<30), within("catchup-reads", int64(c.core.CatchupReads), 1, 64),
		within("catchup-bytes", c.core.CatchupBytes, engine.BlockSize, 1<<20),
		within("intent-region", int64(min(c.core.IntentRegion, 1<<40)), 64<<10, 1<<30),
		within("first copies' rest", c.core.FirstCopyRest, 0, 1<<30), within("first copies' rate", c.core.FirstCopyRate, 0, 1<<40),
	}
	if c.sectors != 512 && c.sectors != engine.BlockSize {
		errs = append(errs, fmt.Errorf("sector is %d, not 512 or %d", c.sectors, engine.BlockSize))
	}
	if !(c.spare >= 1 && c.spare <= 100) {
		errs = append(errs, fmt.Errorf("spare is %v, not 1 to 100", c.spare))
	}
	for _, s := range c.sections() {
		for _, f := range s.fields {
			if d, ok := f.to.(*time.Duration); ok && (*d < 0 || *d > time.Hour || s.name == "times" && *d < time.Microsecond) {
				errs = append(errs, fmt.Errorf("%s is %v, which is too short or more than an hour", f.key, *d))
			}
		}
	}
	for i, v := range c.volumes {
		if v.primary < 0 || v.primary >= c.primaries || v.blocks <= chainBlocks || v.blocks > 4096 || len(v.to) == 0 ||
			slices.ContainsFunc(v.to, func(s int) bool { return s < 0 || s >= c.secondaries }) {
			errs = append(errs, fmt.Errorf("volume v%d: no such primary or secondary, or not %d to 4096 blocks", i, chainBlocks+1))
		}
	}
	return errors.Join(append(errs, c.idleNodes(), c.absentNodes(), c.lateVolumes())...)
}

// idleNodes: everybody has a volume.
func (c *config) idleNodes() error {
	var errs []error
	for p := range min(c.primaries, 16) {
		if !slices.ContainsFunc(c.volumes, func(v volumeConfig) bool { return v.primary == p }) {
			errs = append(errs, fmt.Errorf("primary p%d has no volume", p))
		}
	}
	for s := range min(c.secondaries, 16) {
		if !slices.ContainsFunc(c.volumes, func(v volumeConfig) bool { return slices.Contains(v.to, s) }) {
			errs = append(errs, fmt.Errorf("secondary s%d has no volume", s))
		}
	}
	return errors.Join(errs...)
}

// absentNodes: a primary and a secondary take part from the beginning, and who does not is there.
func (c *config) absentNodes() error {
	g := c.group()
	if len(g.Primaries)+len(g.Secondaries)+len(c.absent) != c.primaries+c.secondaries || len(g.Primaries) == 0 || len(g.Secondaries) == 0 {
		return fmt.Errorf("absent are %q: name controls that are there, and leave a primary and a secondary", c.absent)
	}
	return nil
}

// lateVolumes: everybody has a volume without those that are not in the group at first.
func (c *config) lateVolumes() error {
	var errs []error
	for _, name := range c.late {
		if n, err := strconv.Atoi(strings.TrimPrefix(name, "v")); err != nil || fmt.Sprintf("v%d", n) != name || n >= len(c.volumes) {
			errs = append(errs, fmt.Errorf("late is %q: there is no such volume", name))
		}
	}
	rest := *c
	rest.volumes = nil
	for i, v := range c.volumes {
		if !slices.Contains(c.late, fmt.Sprintf("v%d", i)) {
			rest.volumes = append(rest.volumes, v)
		}
	}
	if err := rest.idleNodes(); err != nil && len(c.late) > 0 {
		errs = append(errs, fmt.Errorf("without those that are late: %w", err))
	}
	return errors.Join(errs...)
}
