package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// maxName is the longest name of a node, group or volume in bytes; the wire protocol carries no
// longer one.
const maxName = 255

// check finds what is wrong with values that were read well each by itself. Values that could not be read
// are left at zero and have their problem already: no second one is made for them.
func (d *decoder) check(f *File, role Role) {
	d.checkRole(f, role)
	d.checkNode(f)
	switch {
	case f.Secondary != nil:
		d.checkSecondary(f)
	case f.Primary != nil:
		d.checkPrimary(f)
	case f.Manager != nil:
		d.checkManager(f.Manager)
	}
}

func (d *decoder) checkRole(f *File, role Role) {
	var have []string
	if f.Secondary != nil {
		have = append(have, "secondary")
	}
	if f.Primary != nil {
		have = append(have, "primary")
	}
	if f.Manager != nil {
		have = append(have, "manager")
	}
	switch {
	case len(have) == 0 && role != "":
		d.problem("", "has no [%s] section: write one, or give its keys as flags", role)
	case len(have) == 0 && len(d.problems) == 0:
		d.problem("", "has no section for a role: write one of [primary], [secondary] and [manager]")
	case len(have) > 1:
		d.problem(have[1], "a node has one role, and this file has %s: write one file for each node", strings.Join(have, " and "))
	case len(have) == 1 && role != "" && have[0] != string(role):
		d.problem(have[0], "this file is for a %s: start it with \"farside %s\", or name another file", have[0], have[0])
	}
}

func (d *decoder) checkNode(f *File) {
	d.name("node.name", f.Node.Name)
	d.required("node.listen", f.Node.Listen.IsZero(), "the address where this node listens, such as \"127.0.0.1:7400\"")
	if f.Primary != nil {
		d.required("node.state_dir", f.Node.StateDir == "", "a directory for the write-intent log")
	}
	if f.Manager != nil {
		what := "a directory for the audit log"
		if f.Manager.DecisionLog == "" {
			what = "a directory for the decision log and the audit log"
		}
		d.required("node.state_dir", f.Node.StateDir == "", what)
	}
	d.within("node.peer_timeout", f.Node.PeerTimeout, time.Second, time.Minute)
}

func (d *decoder) checkSecondary(f *File) {
	s := f.Secondary
	d.required("secondary.devices", len(s.Devices) == 0, "the devices of the pool")
	seen := map[string]int{}
	for i, dev := range s.Devices {
		path := fmt.Sprintf("secondary.devices[%d]", i)
		if d.required(path, dev == "", "the path of a device") {
			continue
		}
		if first, twice := seen[filepath.Clean(dev)]; twice {
			d.problem(path, "%s is the same device as secondary.devices[%d]", dev, first)
			continue
		}
		seen[filepath.Clean(dev)] = i
	}
	d.atLeast("secondary.window", s.Window, 1<<20)
	d.distinct("secondary.nbd", s.NBD, f.Node.Listen)
	taken := map[string]int{}
	for i, v := range s.Volumes {
		path := fmt.Sprintf("secondary.volume[%d]", i)
		d.volumeNames(path, v.Group, v.Name, taken, i)
		if !d.required(path+".size", v.Size == 0, "the size in bytes, equal to the primary's") {
			d.volumeSize(path+".size", v.Size)
		}
	}
}

func (d *decoder) checkPrimary(f *File) {
	p := f.Primary
	d.distinct("primary.nbd", p.NBD, f.Node.Listen)
	d.required("primary.volume", len(p.Volumes) == 0, "at least one [[primary.volume]]")
	d.atLeast("primary.queue", p.Queue, 1<<20)
	taken, paths := map[string]int{}, map[string]int{}
	for i, v := range p.Volumes {
		path := fmt.Sprintf("primary.volume[%d]", i)
		d.volumeNames(path, v.Group, v.Name, taken, i)
		d.volumePath(path, v, paths, i)
		d.required(path+".secondary", v.Secondary.IsZero(), "the address of the secondary control that holds the copy")
		d.required(path+".nbd", v.NBD.IsZero() && p.NBD.IsZero(), "the address where hosts find the volume (or set primary.nbd for all)")
		d.distinct(path+".nbd", v.NBD, f.Node.Listen)
		if v.Size != 0 {
			d.volumeSize(path+".size", v.Size)
		}
	}
}

func (d *decoder) volumePath(path string, v PrimaryVolume, paths map[string]int, i int) {
	switch {
	case v.Device != "" && v.File != "":
		d.problem(path+".file", "both device and file are given: a volume is on one of them")
	case v.Path() == "":
		d.required(path+".device", true, "the block device that holds the volume (or file)")
	case v.File != "" && v.Size == 0:
		d.required(path+".size", true, "the size in bytes: a file needs one")
	}
	if v.Path() == "" {
		return
	}
	clean := filepath.Clean(v.Path())
	if first, twice := paths[clean]; twice {
		d.problem(path, "%s holds primary.volume[%d] already: a device holds one volume, and a volume is in one group", clean, first)
		return
	}
	paths[clean] = i
}

func (d *decoder) checkManager(m *Manager) {
	d.checkEtcd(m)
	d.required("manager.group", len(m.Groups) == 0, "at least one [[manager.group]]")
	seen := map[string]int{}
	for i, g := range m.Groups {
		path := fmt.Sprintf("manager.group[%d]", i)
		if d.name(path+".name", g.Name) {
			if first, twice := seen[g.Name]; twice {
				d.problem(path+".name", "the group %q is manager.group[%d] already", g.Name, first)
			} else {
				seen[g.Name] = i
			}
		}
		d.controls(path+".primaries", g.Primaries)
		d.controls(path+".secondaries", g.Secondaries)
		d.within(path+".interval", g.Interval, 0, 24*time.Hour)
		d.within(path+".coordination_timeout", g.CoordinationTimeout, time.Millisecond, 10*time.Second)
		d.within(path+".drain_timeout", g.DrainTimeout, 100*time.Millisecond, 24*time.Hour)
		d.within(path+".command_timeout", g.CommandTimeout, 100*time.Millisecond, time.Hour)
		d.within(path+".rpo_alert", g.RPOAlert, 0, 365*24*time.Hour)
	}
}

func (d *decoder) controls(path string, list []Address) {
	d.required(path, len(list) == 0, "at least one address")
	seen := map[Address]bool{}
	for i, a := range list {
		item := fmt.Sprintf("%s[%d]", path, i)
		if d.required(item, a.IsZero(), "an address") {
			continue
		}
		if seen[a] {
			d.problem(item, "%s is in the list already", a)
		}
		seen[a] = true
	}
}

func (d *decoder) volumeNames(path, group, name string, taken map[string]int, i int) {
	d.name(path+".group", group)
	if !d.name(path+".name", name) {
		return
	}
	export := ExportName(group, name)
	if first, twice := taken[export]; twice {
		section := path[:strings.LastIndex(path, "[")]
		d.problem(path+".name", "the volume %q of group %q is %s[%d] already", name, group, section, first)
		return
	}
	taken[export] = i
}

func (d *decoder) volumeSize(path string, s Size) {
	if err := CheckVolumeSize(s); err != nil {
		d.problem(path, "%v", err)
	}
}

func (d *decoder) atLeast(path string, s, least Size) {
	if s < least && !d.known(path) {
		d.problem(path, "%s is too small: write %s or more", s, least)
	}
}

// within checks a duration against the range that is accepted where it is used.
func (d *decoder) within(path string, v Duration, least, most time.Duration) {
	if (v.Std() < least || v.Std() > most) && !d.known(path) {
		d.problem(path, "%v is out of range: write a value from %v to %v", v, least, most)
	}
}

// distinct notes when NBD is to be served where the wire protocol is. Port 0 is a new port each time.
func (d *decoder) distinct(path string, a, listen Address) {
	if !a.IsZero() && a == listen && !strings.HasSuffix(a.Addr, ":0") {
		d.problem(path, "%s is the address of node.listen already: choose another", a)
	}
}

// required notes that a key is missing, unless something is known to be wrong with it already. It
// returns missing.
func (d *decoder) required(path string, missing bool, what string) bool {
	if missing && !d.known(path) {
		d.problem(path, "is missing: give %s", what)
	}
	return missing
}

// known says whether a key, or something inside it, has a problem already.
func (d *decoder) known(path string) bool { return d.faulty[path] }

// name checks a name and says whether it is well.
func (d *decoder) name(path, name string) bool {
	if d.required(path, name == "", "a name") {
		return false
	}
	if err := CheckName(name); err != nil {
		d.problem(path, "%v", err)
		return false
	}
	return true
}

// CheckName says whether a node, group or volume can have the name: letters, digits, ".", "_" and
// "-", beginning with a letter or digit, at most 255 bytes.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("a name is empty")
	}
	if len(name) > maxName {
		return fmt.Errorf("the name is %d bytes long: %d are the most", len(name), maxName)
	}
	for i, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return fmt.Errorf("the name %q has %q in it: a name has letters, digits, \".\", \"_\" and \"-\", and begins with a letter or digit", name, c)
		}
	}
	return nil
}
