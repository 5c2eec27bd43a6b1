package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/farside-storage/farside/internal/nbdclient"
	"github.com/farside-storage/farside/internal/node"
	"github.com/farside-storage/farside/manager"
)

// entries reads the manager's audit log.
func (d *demo) entries() ([]manager.Entry, error) {
	b, err := os.ReadFile(filepath.Join(d.dir, "m1", node.AuditLogFile))
	if err != nil {
		return nil, err
	}
	var entries []manager.Entry
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var e manager.Entry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			break // the last line is being written
		}
		entries = append(entries, e)
	}
	return entries, lines.Err()
}

func (d *demo) auditLength() (int, error) {
	e, err := d.entries()
	return len(e), err
}

// follow tells what the manager writes into its audit log from entry seen on, until done.
func (d *demo) follow(ctx context.Context, seen int, done func(manager.Entry) bool) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		entries, err := d.entries()
		if err != nil {
			return seen, err
		}
		for ; seen < len(entries); seen++ {
			e := entries[seen]
			d.tell("  %s", d.describe(e))
			if done(e) {
				return seen + 1, nil
			}
		}
		if err := d.alive(); err != nil {
			return seen, err
		}
		select {
		case <-ctx.Done():
			return seen, fmt.Errorf("the audit log did not go on: %w\n%s", ctx.Err(), d.manager.LogEnd(logEnd))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d *demo) describe(e manager.Entry) string {
	s := fmt.Sprintf("CG %d %s", e.CG, e.Kind)
	if e.Control != "" {
		s += " " + d.label(e.Control)
	}
	if e.Said != "" {
		s += ": said " + e.Said
	}
	if e.Did != "" {
		s += "; " + e.Did
	}
	return s
}

// compareVolume returns where a copy differs from its primary, -1 if nowhere.
func compareVolume(ctx context.Context, v *volume) (differ int64, err error) {
	host, err := nbdclient.Dial(ctx, v.host, v.export)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	replica, err := nbdclient.Dial(ctx, v.copyAt, v.export)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, replica.Close()) }()
	if host.Size() != replica.Size() {
		return 0, fmt.Errorf("volume %s has %d bytes, its copy %d", v.name, host.Size(), replica.Size())
	}
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < int64(host.Size()); off += int64(len(a)) {
		if _, err := host.ReadAt(a, off); err != nil {
			return 0, err
		}
		if _, err := replica.ReadAt(b, off); err != nil {
			return 0, err
		}
		if !bytes.Equal(a, b) {
			for i := range a {
				if a[i] != b[i] {
					return off + int64(i), nil
				}
			}
		}
	}
	return -1, nil
}
