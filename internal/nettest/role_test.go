package nettest_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/nettest"
	"github.com/farside-storage/farside/internal/proc"
	"github.com/farside-storage/farside/internal/sitetest"
	"github.com/farside-storage/farside/wire"
)

// farside builds the program, once.
var farside = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "farside-net-")
	if err != nil {
		return "", err
	}
	scratch = dir
	path := filepath.Join(dir, "farside")
	out, err := exec.Command("go", "build", "-o", path, "../../cmd/farside").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build farside: %w\n%s", err, out)
	}
	return path, err
})

var scratch string // of the program; "" while there is none

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait for peers to fall silent most of the time: all at once, more than there are processors.
	err := flag.Set("test.parallel", "4")
	code := m.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if scratch != "" {
		if err := os.RemoveAll(scratch); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

var (
	check = sitetest.Check
	await = sitetest.Await
)

// long skips tests that only run other processes: the race detector sees nothing of them.
func long(t testing.TB) {
	t.Helper()
	if raceEnabled {
		t.Skip("runs the roles as processes of their own, which the race detector does not watch")
	}
	if testing.Short() {
		t.Skip("takes long")
	}
}

// role is a process on a host of its own.
type role struct {
	proc.Role
	t    testing.TB
	host *nettest.Host
}

func newRole(t testing.TB, kind, name, dir string, host *nettest.Host) *role {
	t.Helper()
	program, err := farside()
	check(t, err)
	return &role{proc.Role{Name: name, Kind: kind, Dir: dir, Farside: []string{program}, Begin: host.Start}, t, host}
}

const port = "7400" // of every role

func (r *role) address() string { return r.host.IP + ":" + port }

func (r *role) path(kind string) string { return filepath.Join(r.Dir, r.Name+"."+kind) }

// start runs the role until the test ends.
func (r *role) start() {
	r.t.Helper()
	check(r.t, r.Launch())
}

// end kills the process and shows its log if the test failed.
func (r *role) end() {
	if r.Running() {
		r.kill()
	}
	if r.t.Failed() {
		r.t.Logf("log of %s:\n%s", r.Name, r.LogEnd(4000))
	}
}

// kill ends the process; one that has ended by itself is an error of the test.
func (r *role) kill() {
	r.t.Helper()
	if err := r.Kill(); err != nil {
		r.t.Error(err)
	}
}

func (r *role) freeze() {
	r.t.Helper()
	check(r.t, r.Pause(r.t.Context()))
}

func (r *role) thaw() {
	r.t.Helper()
	check(r.t, r.Resume())
}

// log is what the role logged, from an offset on.
func (r *role) log(from int) string {
	text := r.LogEnd(math.MaxInt)
	return text[min(from, len(text)):]
}

// awaitLog waits until the role logs a line, from an offset on, that will do.
func (r *role) awaitLog(from int, what string, ok func(line string) bool) {
	r.t.Helper()
	await(r.t, what+" in the log of "+r.Name, func() error {
		for line := range strings.Lines(r.log(from)) {
			if ok(line) {
				return nil
			}
		}
		return fmt.Errorf("it ends with\n%s", r.LogEnd(2000))
	})
}

// status asks the role for its state, from its own host.
func (r *role) status(into any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var c *wire.Conn
	var err error
	r.host.Do(func() { c, err = wire.Dial(ctx, r.address(), wire.Options{}) })
	if err != nil {
		return err
	}
	return proc.Ask(ctx, c, into)
}

// connections is how many TCP connections there are between the hosts of two roles, as this one's kernel has them: proc(5), net/tcp.
func (r *role) connections(with *role) (n int, err error) {
	var text []byte
	r.host.Do(func() { text, err = os.ReadFile("/proc/thread-self/net/tcp") })
	if err != nil {
		return 0, err
	}
	ip := net.ParseIP(with.host.IP).To4()
	remote := fmt.Sprintf("%08X:", binary.NativeEndian.Uint32(ip))
	for line := range strings.Lines(string(text)) {
		const established = "01"
		if f := strings.Fields(line); len(f) > 3 && strings.HasPrefix(f[2], remote) && f[3] == established {
			n++
		}
	}
	return n, nil
}

// folder makes a folder for files and sockets, in memory where that can be.
func folder(t testing.TB) string {
	t.Helper()
	home := "/dev/shm"
	if unix.Access(home, unix.W_OK) != nil {
		home = ""
	}
	dir, err := os.MkdirTemp(home, "farside-net-") // t.TempDir is too long for sockets
	check(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func quoted(words []string) string { return `["` + strings.Join(words, `", "`) + `"]` }
