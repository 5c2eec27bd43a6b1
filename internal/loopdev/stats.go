package loopdev

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Stats counts what a block device has done since it exists. Source: the kernel's
// Documentation/block/stat.rst.
type Stats struct {
	Reads, Writes, Discards, Flushes      uint64
	ReadBytes, WriteBytes, DiscardedBytes uint64
}

// sectorUnit is the unit of block statistics, whatever the device's sector size.
const sectorUnit = 512

// ReadStats reads the statistics of the block device at path, for instance /dev/loop3 or
// /dev/sda1. It needs no right to open the device.
func ReadStats(path string) (Stats, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Stats{}, fmt.Errorf("block statistics: %w", err)
	}
	text, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(real), "stat"))
	if err != nil {
		return Stats{}, fmt.Errorf("block statistics of %s: %w", path, err)
	}
	s, err := parseStats(string(text))
	if err != nil {
		return Stats{}, fmt.Errorf("block statistics of %s: %w", path, err)
	}
	return s, nil
}

func parseStats(text string) (Stats, error) {
	fields := strings.Fields(text)
	if len(fields) < 11 {
		return Stats{}, fmt.Errorf("%d fields, at least 11 expected", len(fields))
	}
	var n [17]uint64 // discards since kernel 4.18, flushes since 5.5; missing ones count as 0
	for i, f := range fields[:min(len(fields), len(n))] {
		v, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return Stats{}, fmt.Errorf("field %d: %w", i+1, err)
		}
		n[i] = v
	}
	return Stats{
		Reads: n[0], ReadBytes: n[2] * sectorUnit,
		Writes: n[4], WriteBytes: n[6] * sectorUnit,
		Discards: n[11], DiscardedBytes: n[13] * sectorUnit,
		Flushes: n[15],
	}, nil
}

// Sub is what happened between the earlier statistics and s.
func (s Stats) Sub(earlier Stats) Stats {
	return Stats{
		Reads: s.Reads - earlier.Reads, ReadBytes: s.ReadBytes - earlier.ReadBytes,
		Writes: s.Writes - earlier.Writes, WriteBytes: s.WriteBytes - earlier.WriteBytes,
		Discards: s.Discards - earlier.Discards, DiscardedBytes: s.DiscardedBytes - earlier.DiscardedBytes,
		Flushes: s.Flushes - earlier.Flushes,
	}
}
