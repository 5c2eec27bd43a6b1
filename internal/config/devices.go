package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// deviceUse is one place of a file that names a device or a file that holds data.
type deviceUse struct {
	key  string
	path string // clean
	what string // who has its data there
}

// deviceUses lists what a node keeps data on.
func (f *File) deviceUses() (uses []deviceUse) {
	if p := f.Primary; p != nil {
		for i, v := range p.Volumes {
			if v.Path() != "" {
				uses = append(uses, deviceUse{fmt.Sprintf("primary.volume[%d]", i), filepath.Clean(v.Path()), fmt.Sprintf("the volume %q", v.Export())})
			}
		}
	}
	if s := f.Secondary; s != nil {
		for i, path := range s.Devices {
			if path != "" {
				uses = append(uses, deviceUse{fmt.Sprintf("secondary.devices[%d]", i), filepath.Clean(path), "its pool"})
			}
		}
	}
	return uses
}

// CheckDevices finds devices that a node names twice under different names: two volumes on one device, in one group
// or in two, would overwrite each other. It looks at what is on this machine; what is not there is not checked.
// source names the file; "": none. The error joins one [Error] for each problem.
func CheckDevices(source string, f *File) error {
	type seen struct {
		deviceUse
		info os.FileInfo
	}
	var all []seen
	var problems []error
next:
	for _, u := range f.deviceUses() {
		info, err := os.Stat(u.path)
		if err != nil {
			continue // not there, or not for us to see: whoever opens it will say so
		}
		for _, s := range all {
			if sameDevice(s.info, info) {
				problems = append(problems, &Error{Source: source, Key: u.key, Problem: fmt.Sprintf("%s is the same device as %s, which holds %s (%s) already: "+
					"a device holds one volume, and a volume is in one group", u.path, s.path, s.what, s.key)})
				continue next
			}
		}
		all = append(all, seen{u, info})
	}
	return errors.Join(problems...)
}

func sameDevice(a, b os.FileInfo) bool {
	if os.SameFile(a, b) {
		return true
	}
	x, xok := a.Sys().(*syscall.Stat_t)
	y, yok := b.Sys().(*syscall.Stat_t)
	const kind = os.ModeDevice | os.ModeCharDevice
	return xok && yok && a.Mode()&kind == os.ModeDevice && b.Mode()&kind == os.ModeDevice && x.Rdev == y.Rdev
}
