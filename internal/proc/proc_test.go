package proc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/wire"
)

// pretend has this program stand in for farside, or for a process that has children.
const pretend = "FARSIDE_PROC_PRETEND"

func TestMain(m *testing.M) {
	switch os.Getenv(pretend) {
	case "farside":
		os.Exit(standIn())
	case "parent":
		parent()
	}
	os.Exit(m.Run())
}

// standIn does what its configuration file says: ends badly at once, does not end when asked to, or serves its status.
func standIn() int {
	text, err := os.ReadFile(os.Args[len(os.Args)-1])
	if err != nil {
		fmt.Println(err)
		return 2
	}
	fmt.Printf("arguments %q\n", os.Args[1:])
	fmt.Println("nbd: client connected: noise")
	if string(text) == "fail" {
		fmt.Println("this is why")
		return 7
	}
	asked, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := net.Listen("unix", strings.TrimSuffix(os.Args[len(os.Args)-1], ".toml")+".sock")
	if err != nil {
		fmt.Println(err)
		return 3
	}
	defer l.Close()
	go serve(l)
	<-asked.Done()
	if string(text) == "deaf" {
		select {}
	}
	return 0
}

func serve(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		c := wire.NewConn(nc, wire.Options{})
		if _, err := c.Answer(wire.Hello{Role: wire.RoleSecondary, Node: "stand-in"}, nil); err != nil {
			continue
		}
		if h, _, err := c.Next(); err == nil && h.Type == wire.TypeStatus {
			c.WriteMessage(&wire.StatusReply{JSON: fmt.Appendf(nil, `{"pid": %d}`, os.Getpid())})
		}
		c.Next() // until the other side closes
		c.Close()
	}
}

// parent starts a child and tells its number, then waits to be killed.
func parent() {
	cmd := exec.Command("sleep", "600")
	if err := Start(cmd); err != nil {
		panic(err)
	}
	fmt.Println(cmd.Process.Pid)
	select {}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually waits until ok returns no error.
func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s: %v", what, err)
		}
	}
}

func TestChildDiesWithItsParent(t *testing.T) {
	cmd := exec.Command(self(t))
	cmd.Env = append(os.Environ(), pretend+"=parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := Start(cmd); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Sscan(line, &child); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the killed parent ended well")
	}
	eventually(t, "the end of the child", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil || !strings.Contains(string(stat), "(sleep)") || strings.Contains(string(stat), ") Z ") {
			return nil
		}
		return fmt.Errorf("it is there: %s", stat)
	})
}

// TestChildOutlivesTheThreadThatAsked: a thread that asks for a child and ends does not take it along.
func TestChildOutlivesTheThreadThatAsked(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan error)
	var thread int
	var ask func()
	ask = func() {
		runtime.LockOSThread() // and never unlocked: Go ends the thread with the goroutine
		if thread = unix.Gettid(); thread == unix.Getpid() {
			defer runtime.UnlockOSThread()
			go ask() // on another thread: Go never ends the first one
			<-t.Context().Done()
			return
		}
		asked <- Start(cmd)
	}
	go ask()
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the thread", func() error {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread)); err == nil {
			return fmt.Errorf("thread %d is there", thread)
		}
		return nil
	})
	if _, err := in.Write([]byte("still here")); err != nil {
		t.Error(err)
	}
	in.Close()
	if b, err := io.ReadAll(out); err != nil || string(b) != "still here" {
		t.Errorf("the child says %q, %v", b, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// endTime is how long a process may take to end: on a machine under load the kernel alone has taken a minute.
const endTime = 3 * time.Minute

// newRole makes a role that the stand-in plays.
func newRole(t *testing.T, toml string) *Role {
	t.Helper()
	t.Setenv(pretend, "farside")
	r := &Role{Name: "m1", Kind: "manager", Dir: t.TempDir(), Farside: []string{self(t), "first"}, LargestFile: 1 << 20}
	if err := r.Configure(toml); err != nil {
		t.Fatal(err)
	}
	if err := r.Launch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.Running() {
			r.Kill() // only left after a failure
		}
	})
	return r
}

func (r *Role) pid(t *testing.T) (pid int) {
	t.Helper()
	var s struct{ PID int }
	eventually(t, "its status", func() error { return r.Status(t.Context(), &s) })
	return s.PID
}

func (r *Role) awaitEnd(t *testing.T) {
	t.Helper()
	eventually(t, "its end", func() error {
		if r.Ended() == nil {
			return errors.New("it runs")
		}
		return nil
	})
}

func TestRoleLivesAgain(t *testing.T) {
	r := newRole(t, "serve")
	first := r.pid(t)
	if err := r.Ended(); err != nil {
		t.Error(err)
	}
	if err := r.Pause(t.Context()); err != nil {
		t.Error(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Status(short, new(any)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("status of a paused role: %v", err)
	}
	if err := r.Resume(); err != nil {
		t.Error(err)
	}
	if again := r.pid(t); again != first {
		t.Errorf("process %d, then %d", first, again)
	}
	if err := r.Kill(); err != nil {
		t.Error(err)
	}
	if r.Running() || r.Ended() != nil {
		t.Error("a killed role runs, or ended by itself")
	}
	if err := r.Kill(); err == nil {
		t.Error("killed twice")
	}
	if err := os.Remove(filepath.Join(r.Dir, "m1.sock")); err != nil { // farside does that itself
		t.Fatal(err)
	}
	if err := r.Launch(); err != nil {
		t.Fatal(err)
	}
	if second := r.pid(t); second == first {
		t.Errorf("process %d again", second)
	}
	if err := r.Pause(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.Stop(endTime); err != nil || r.Running() {
		t.Errorf("stopped: %v, running %v", err, r.Running())
	}
	want := `arguments ["first" "manager" "--config" "` + r.Config() + `"]` + "\n"
	if got := r.LogEnd(1000); got != want+want {
		t.Errorf("log %q", got)
	}
	if got := r.LogEnd(5); got != want[len(want)-5:] {
		t.Errorf("end of the log %q", got)
	}
	if all, err := r.Log(); err != nil || !strings.Contains(string(all), "noise") {
		t.Errorf("whole log %q, %v", all, err)
	}
}

func TestRoleThatEndsByItself(t *testing.T) {
	r := newRole(t, "fail")
	r.awaitEnd(t)
	for name, err := range map[string]error{"Ended": r.Ended(), "Kill": r.Kill()} {
		if err == nil || !strings.Contains(err.Error(), "m1 has ended by itself: exit status 7") || !strings.Contains(err.Error(), "this is why") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.Launch(); err != nil {
		t.Fatal(err)
	}
	r.awaitEnd(t)
	if err := r.Stop(endTime); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("Stop: %v", err)
	}
}

func TestRoleThatDoesNotEnd(t *testing.T) {
	r := newRole(t, "deaf")
	r.pid(t) // it listens for the signal now
	if err := r.Stop(time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not end within 1ms") {
		t.Errorf("Stop: %v", err)
	}
	if r.Running() {
		t.Error("it still runs")
	}
}

func TestRoleThatCannotStart(t *testing.T) {
	r := &Role{Name: "m1", Kind: "manager", Dir: t.TempDir(), Farside: []string{"/nonexistent/farside"}}
	if err := r.Launch(); err == nil || !strings.Contains(err.Error(), "start m1") || r.Running() {
		t.Errorf("Launch: %v, running %v", err, r.Running())
	}
	if err := r.Status(t.Context(), new(any)); err == nil || !strings.Contains(err.Error(), "status of m1") {
		t.Errorf("Status: %v", err)
	}
	if got := r.LogEnd(100); got != "" {
		t.Errorf("log %q", got)
	}
}
