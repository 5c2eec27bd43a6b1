package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Host says on what a report was made. A value that could not be found out says so.
type Host struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory_bytes"`
	Go     string `json:"go"`
	// Device and what follows: empty if every workload made devices of its own.
	Device     string `json:"device"`
	DeviceSize int64  `json:"device_bytes"`
	Region     int64  `json:"region_bytes"`
	SectorSize int    `json:"sector_size"`
	Scheduler  string `json:"scheduler"`
	// Notices are fall-backs that were taken: page cache instead of direct I/O, for instance.
	Notices []string `json:"notices,omitempty"`
}

const unknown = "not known"

func describeHost() Host {
	h := Host{Kernel: unknown, CPU: cpuModel(), CPUs: runtime.NumCPU(), Go: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
	}
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) == nil {
		h.Memory = int64(s.Totalram) * int64(s.Unit)
	}
	return h
}

// describe adds the device that was measured on.
func (h *Host) describe(d *device) {
	h.Device, h.DeviceSize, h.Region, h.SectorSize, h.Scheduler = d.what, d.size, d.region(), d.info().SectorSize, d.scheduler()
	if n := d.info().Notice; n != "" {
		h.Notices = append(h.Notices, n)
	}
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return unknown
	}
	for line := range bytes.Lines(text) {
		if k, v, ok := bytes.Cut(line, []byte(":")); ok && string(bytes.TrimSpace(k)) == "model name" {
			return string(bytes.TrimSpace(v))
		}
	}
	return unknown
}

// scheduler is the I/O scheduler of the device's request queue.
func (d *device) scheduler() string {
	if !d.info().Block {
		return "none: a regular file"
	}
	real, err := filepath.EvalSymlinks(d.info().Path)
	if err != nil {
		return unknown
	}
	dir := filepath.Join("/sys/class/block", filepath.Base(real))
	for _, p := range []string{dir + "/queue/scheduler", dir + "/../queue/scheduler"} {
		if text, err := os.ReadFile(p); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	return unknown
}

type hostLine struct{ key, value string }

func (h *Host) lines() []hostLine {
	lines := []hostLine{
		{"kernel", h.Kernel},
		{"cpu", fmt.Sprintf("%s, %d processors", h.CPU, h.CPUs)},
		{"memory", fmt.Sprintf("%.1f GiB", float64(h.Memory)/(1<<30))},
		{"go", h.Go},
	}
	if h.Device != "" {
		lines = append(lines, h.deviceLines()...)
	}
	for _, n := range h.Notices {
		lines = append(lines, hostLine{"notice", n})
	}
	return lines
}

func (h *Host) deviceLines() []hostLine {
	return []hostLine{
		{"device", fmt.Sprintf("%s, %.1f GiB, of which the first %.1f GiB are used", h.Device, float64(h.DeviceSize)/(1<<30), float64(h.Region)/(1<<30))},
		{"scheduler", h.Scheduler},
		{"sector-size", fmt.Sprint(h.SectorSize)},
	}
}
