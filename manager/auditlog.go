package manager

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
)

const (
	auditTail     = 1024     // entries kept in memory
	auditFileSize = 16 << 20 // bytes; the file is rotated beyond
	auditFiles    = 4        // rotated files kept besides the current one
)

// AuditLog keeps what a manager did, control by control: one JSON object per line, appended to a file that is
// rotated, and the newest entries that are not [Entry.Routine] in memory. Any goroutine may use it.
type AuditLog struct {
	mu    sync.Mutex
	path  string
	file  *os.File
	size  int64
	limit int64
	tail  []Entry
	next  int
}

// OpenAuditLog opens an audit log that appends to path; with path "" it is kept in memory only.
func OpenAuditLog(path string) (*AuditLog, error) {
	a := &AuditLog{path: path, limit: auditFileSize}
	if path == "" {
		return a, nil
	}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("manager: audit log: %w", err)
	}
	return a, nil
}

// open opens the current file, and ends a line that a crash cut off.
func (a *AuditLog) open() error {
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Size() > 0 {
		err = endLine(f, st.Size())
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	a.file, a.size = f, st.Size()
	return nil
}

func endLine(f *os.File, size int64) error {
	var last [1]byte
	if _, err := f.ReadAt(last[:], size-1); err != nil {
		return err
	}
	if last[0] == '\n' {
		return nil
	}
	_, err := f.Write([]byte{'\n'})
	return err
}

// Write appends an entry. After an error the entry is not in the file.
func (a *AuditLog) Write(e Entry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !e.Routine() {
		a.remember(e)
	}
	if a.path == "" {
		return nil
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("manager: audit log: %w", err)
	}
	if err := a.append(append(line, '\n')); err != nil {
		return fmt.Errorf("manager: audit log: %w", err)
	}
	return nil
}

func (a *AuditLog) append(line []byte) error {
	if a.file == nil || a.size+int64(len(line)) > a.limit {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	n, err := a.file.Write(line)
	a.size += int64(n)
	return err
}

// rotate starts a new file if the current one is full; a file that could not be opened before is tried again.
func (a *AuditLog) rotate() error {
	if a.file == nil {
		return a.open()
	}
	err := a.file.Close()
	a.file = nil
	for i := auditFiles; i > 0; i-- {
		from := fmt.Sprintf("%s.%d", a.path, i-1)
		if i == 1 {
			from = a.path
		}
		if e := os.Rename(from, fmt.Sprintf("%s.%d", a.path, i)); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, a.open())
}

func (a *AuditLog) remember(e Entry) {
	if len(a.tail) < auditTail {
		a.tail = append(a.tail, e)
		return
	}
	a.tail[a.next] = e
	a.next = (a.next + 1) % auditTail
}

// Tail returns the newest entries, oldest first, at most n.
func (a *AuditLog) Tail(n int) []Entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Entry, 0, len(a.tail))
	out = append(append(out, a.tail[a.next:]...), a.tail[:a.next]...)
	return out[max(0, len(out)-n):]
}

// Close closes the file.
func (a *AuditLog) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}
