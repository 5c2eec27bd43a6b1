package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// wantedDevice is a device that this node wants to open.
type wantedDevice struct{ path, what string }

// holders names the processes that have any of the devices open, as far as this process may see: who named a device
// on two nodes finds the other place so. "": none was found.
func holders(devices []wantedDevice) string {
	var all []string
	for _, d := range devices {
		var st unix.Stat_t
		if unix.Stat(d.path, &st) != nil {
			continue // whoever opens it says why
		}
		for _, who := range processesWith(&st) {
			all = append(all, fmt.Sprintf("%s, for %s here, is open in %s", d.path, d.what, who))
		}
	}
	return strings.Join(all, "; ")
}

// processesWith names those that have a file open.
func processesWith(st *unix.Stat_t) (all []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well
	seen := map[string]bool{}
	for _, link := range links {
		var open unix.Stat_t
		process := filepath.Dir(filepath.Dir(link))
		if seen[process] || process == "/proc/"+strconv.Itoa(os.Getpid()) || unix.Stat(link, &open) != nil || !sameOpen(st, &open) {
			continue
		}
		seen[process] = true
		command, err := os.ReadFile(process + "/cmdline")
		if err != nil {
			continue // it has ended
		}
		text := strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
		all = append(all, fmt.Sprintf("process %s (%s)", filepath.Base(process), text))
	}
	return all
}

func sameOpen(a, b *unix.Stat_t) bool {
	if a.Mode&unix.S_IFMT == unix.S_IFBLK {
		return b.Mode&unix.S_IFMT == unix.S_IFBLK && a.Rdev == b.Rdev
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}
