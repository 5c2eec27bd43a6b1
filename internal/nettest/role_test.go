package nettest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/internal/nettest"
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

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await asks again and again until ok says yes; the error that it returns until then is shown if it never does.
func await(t testing.TB, what string, ok func() error) {
	t.Helper()
	for late := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // between two questions
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
	}
}

// role is a process on a host of its own.
type role struct {
	t    testing.TB
	kind string
	name string
	dir  string
	host *nettest.Host
	cmd  *exec.Cmd     // nil: does not run
	done chan struct{} // closed when it has ended
}

const port = "7400" // of every role

func (r *role) address() string { return r.host.IP + ":" + port }

func (r *role) path(kind string) string { return filepath.Join(r.dir, r.name+"."+kind) }

// start runs the role until the test ends.
func (r *role) start() {
	r.t.Helper()
	program, err := farside()
	check(r.t, err)
	log, err := os.OpenFile(r.path("log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	check(r.t, err)
	defer log.Close()
	r.cmd = exec.Command(program, r.kind, "--config", r.path("toml"))
	r.cmd.Stdout, r.cmd.Stderr = log, log
	check(r.t, r.host.Start(r.cmd))
	r.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // a role that ends by itself is noticed by those who ask it
		close(done)
	}(r.cmd, r.done)
}

// end kills the process and shows its log if the test failed.
func (r *role) end() {
	if r.cmd != nil {
		r.kill()
	}
	if r.t.Failed() {
		r.t.Logf("log of %s:\n%s", r.name, tail(r.log(0), 4000))
	}
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func (r *role) kill() {
	_ = r.cmd.Process.Kill() // it may have ended
	<-r.done
	r.cmd = nil
}

func (r *role) freeze() {
	r.t.Helper()
	check(r.t, r.cmd.Process.Signal(syscall.SIGSTOP))
}

func (r *role) thaw() {
	r.t.Helper()
	check(r.t, r.cmd.Process.Signal(syscall.SIGCONT))
}

// log is what the role logged, from an offset on, without the clients of NBD that come and go all the time.
func (r *role) log(from int) (text []byte) {
	b, err := os.ReadFile(r.path("log"))
	if err != nil {
		return []byte(err.Error())
	}
	for line := range bytes.Lines(b) {
		if !bytes.Contains(line, []byte("nbd: client")) {
			text = append(text, line...)
		}
	}
	return text[min(from, len(text)):]
}

// awaitLog waits until a line that the role logs from an offset on has all the words.
func (r *role) awaitLog(from int, words ...string) {
	r.t.Helper()
	await(r.t, fmt.Sprintf("%q in the log of %s", words, r.name), func() error {
		for line := range bytes.Lines(r.log(from)) {
			has := true
			for _, w := range words {
				has = has && bytes.Contains(line, []byte(w))
			}
			if has {
				return nil
			}
		}
		return fmt.Errorf("it has\n%s", tail(r.log(from), 2000))
	})
}

// status asks the role for its state, from its own host.
func (r *role) status(into any) error {
	var c *wire.Conn
	var err error
	r.host.Do(func() { c, err = wire.Dial(context.Background(), r.address(), wire.Options{}) })
	if err != nil {
		return err
	}
	return errors.Join(ask(c, into), c.Close())
}

func ask(c *wire.Conn, into any) error {
	if _, err := c.Handshake(wire.Hello{Role: wire.RoleTool, Node: "nettest"}); err != nil {
		return err
	}
	if err := c.WriteMessage(&wire.Status{}); err != nil {
		return err
	}
	h, body, err := c.Next()
	if err != nil {
		return err
	}
	m, err := wire.Decode(h.Type, body)
	if err != nil {
		return err
	}
	reply, ok := m.(*wire.StatusReply)
	if !ok {
		return fmt.Errorf("answered with %v", h.Type)
	}
	return json.Unmarshal(reply.JSON, into)
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
