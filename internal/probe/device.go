package probe

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Report says what a device or file holds and whether it is in use.
type Report struct {
	Path string `json:"path"`
	// Size in bytes.
	Size int64 `json:"size"`
	// Block: a block device, not a regular file.
	Block    bool      `json:"block"`
	Findings []Finding `json:"findings"`
}

// Device opens the device or file at path read-only and reports on it. What is neither is an
// error. With an error the report holds what was found before.
func Device(path string) (Report, error) {
	report := Report{Path: path}
	info, err := os.Stat(path)
	if err != nil {
		return report, err
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		report.Block = true
	default:
		return report, fmt.Errorf("%s is neither a block device nor a regular file: name one of these", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return report, err
	}
	defer f.Close() // read only: nothing can be lost
	if report.Size, err = f.Seek(0, io.SeekEnd); err != nil {
		return report, fmt.Errorf("size of %s: %w", path, err)
	}
	used, usedErr := InUse(path)
	held, scanErr := Scan(f, report.Size)
	report.Findings = append(used, held...)
	if scanErr != nil {
		scanErr = fmt.Errorf("%s: %w", path, scanErr)
	}
	return report, errors.Join(usedErr, scanErr)
}
