package nbdclient

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/nbd"
)

const (
	testBlock = 4096
	testSize  = 64 * testBlock
)

// counted is a device in memory that counts its requests.
type counted struct {
	mu            sync.Mutex
	bytes         [testSize]byte
	reads, writes int
	broken        bool
}

func (d *counted) Info() nbd.Info { return nbd.Info{Size: testSize, Flush: true} }
func (d *counted) List() []string { return []string{"x"} }
func (d *counted) Lookup(context.Context, string) (nbd.Device, func(), error) {
	return d, nil, nil
}

func (d *counted) Start(batch []*nbd.Request) {
	d.mu.Lock()
	for _, r := range batch {
		switch r.Cmd {
		case nbd.CmdRead:
			d.reads++
			copy(r.Data.Bytes(), d.bytes[r.Off:])
		case nbd.CmdWrite:
			d.writes++
			copy(d.bytes[r.Off:], r.Data.Bytes())
		}
	}
	var err error
	if d.broken {
		err = unix.EIO
	}
	d.mu.Unlock()
	for _, r := range batch {
		r.Finish(err)
	}
}

func served(t *testing.T) (*counted, *Client) {
	t.Helper()
	d := &counted{}
	server, err := nbd.NewServer(nbd.Options{Exports: d})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(t.Context(), l) }()
	c, err := Dial(t.Context(), "unix:"+path, "x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.conn.Close() // a test may have closed it
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return d, c
}

// TestLoad: whatever was sent is answered when Run returns, and the connection can be used again.
func TestLoad(t *testing.T) {
	d, c := served(t)
	answers := 0
	for round, l := range []Load{
		{Write: true, Depth: 8},
		{Write: true, Depth: 4, Rate: 100000},
		{Depth: 8},
		{Depth: 1, Rate: 1000},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		before, seen := d.total(), 0
		next := 0
		l.Size, l.Data = testBlock, bytes.Repeat([]byte{byte(round + 1)}, 3*testBlock)
		l.Offset = func() int64 { next++; return int64(next%64) * testBlock }
		l.Done = func(took time.Duration) {
			if seen++; seen == 100 {
				cancel()
			}
			if took < 0 {
				t.Errorf("an answer took %v", took)
			}
		}
		if err := c.Run(ctx, l); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		cancel()
		if answers = d.total() - before; answers != seen || seen < 100 {
			t.Errorf("round %d: %d answers were seen, the device had %d requests", round, seen, answers)
		}
	}
	var b [testBlock]byte
	if _, err := c.ReadAt(b[:], testBlock); err != nil || b[0] != 2 {
		t.Errorf("block 1 holds %d, %v; want what the second load wrote", b[0], err)
	}
}

func (d *counted) total() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads + d.writes
}

func TestLoadFails(t *testing.T) {
	d, c := served(t)
	l := Load{Depth: 2, Size: testBlock, Write: true, Data: make([]byte, testBlock), Offset: func() int64 { return 0 }, Done: func(time.Duration) {}}
	for name, bad := range map[string]Load{
		"depth":     {Size: testBlock},
		"size":      {Depth: 1},
		"too large": {Depth: 1, Size: maxLoadSize + 1},
		"no data":   {Depth: 1, Size: testBlock, Write: true},
	} {
		if err := c.Run(t.Context(), bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	d.mu.Lock()
	d.broken = true
	d.mu.Unlock()
	if err := c.Run(t.Context(), l); !errors.Is(err, unix.EIO) {
		t.Errorf("the device fails, the load ended with %v", err)
	}
	if err := c.conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context(), l); err == nil {
		t.Error("the connection is closed, and the load ended well")
	}
}
