package primary

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// intentFiles are the two files of a write-intent log, in a directory that is locked.
type intentFiles struct {
	dir   *os.File
	files [2]*os.File
}

// openIntent opens the log in dir, and tells what it says. The lock keeps out a second node.
func openIntent(dir string) (*intentFiles, *IntentLog, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open state directory: %w; create it first", err)
	}
	f := &intentFiles{dir: d}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("state directory %s is in use by another primary control: %w", dir, err), f.close())
	}
	var contents [2][]byte
	for i := range f.files {
		path := filepath.Join(dir, fmt.Sprintf("intent.%d", i))
		if contents[i], err = os.ReadFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, errors.Join(fmt.Errorf("read write-intent log: %w", err), f.close())
		}
		if f.files[i], err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("open write-intent log: %w", err), f.close())
		}
	}
	if err := d.Sync(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("sync state directory %s: %w", dir, err), f.close())
	}
	return f, LoadIntent(contents), nil
}

// write does what IntentWrite says.
func (f *intentFiles) write(w *IntentWrite) error {
	file := f.files[w.File]
	if w.Truncate {
		if err := file.Truncate(0); err != nil {
			return err
		}
	}
	if _, err := file.WriteAt(w.Data, w.Off); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(file.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", file.Name(), err)
	}
	if !w.Truncate {
		return nil
	}
	other := f.files[1-w.File]
	if err := other.Truncate(0); err != nil {
		return err
	}
	if err := other.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", other.Name(), err)
	}
	return nil
}

func (f *intentFiles) close() error {
	var errs []error
	for _, file := range append(f.files[:], f.dir) {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}
