package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Some workloads need another process: one that sends, one that is killed, one that does nothing. It is the same
// program, started again with the name of its task in the environment; see [Assist].
//
// The order comes as one JSON value on its standard input, notes to it as further ones; what it reports are JSON
// values on standard output. The end of its standard input tells it to end, so that it does not outlive the program
// that started it, even if that is killed.

const assistVariable = "FARSIDE_BENCH_TASK"

// tasks of assistants. Each gets its order, and ends when ctx does.
var tasks = map[string]func(ctx context.Context, a *assignment) error{
	"send":   sendUpdates,
	"pour":   pourBytes,
	"ingest": ingestUntilKilled,
}

// assignment is the assistant's end of the conversation.
type assignment struct {
	in  *json.Decoder
	out *json.Encoder
}

// Assist says whether this process was started by a workload as its other process, and if so does that work
// before it returns. A program that calls [Run] calls it first, and ends with its error.
func Assist() (assisted bool, err error) {
	name := os.Getenv(assistVariable)
	if name == "" {
		return false, nil
	}
	task := tasks[name]
	if task == nil {
		return true, fmt.Errorf("bench: %s=%q names no task of an assistant; unset it", assistVariable, name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, os.Stdin)
		w.CloseWithError(errors.Join(io.EOF, err)) // never fails
		cancel()
	}()
	return true, task(ctx, &assignment{json.NewDecoder(r), json.NewEncoder(os.Stdout)})
}

// assistant is the caller's end.
type assistant struct {
	command *exec.Cmd
	stdin   io.WriteCloser
	to      *json.Encoder
	from    *json.Decoder
	stderr  tailBuffer
	task    string
}

// assist starts this program again for a task.
func assist(task string, order any) (*assistant, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program, to start it again: %w", err)
	}
	a := &assistant{command: exec.Command(self), task: task}
	a.command.Env = append(os.Environ(), assistVariable+"="+task)
	// An interrupt from the keyboard is for the one that started it, which then ends this one.
	a.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	a.command.Stderr = &a.stderr
	if a.stdin, err = a.command.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := a.command.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, a.stdin.Close())
	}
	if err := a.command.Start(); err != nil {
		return nil, fmt.Errorf("start %s for the task %q: %w", self, task, err)
	}
	a.to, a.from = json.NewEncoder(a.stdin), json.NewDecoder(out)
	if err := a.tell(order); err != nil {
		return nil, errors.Join(err, a.end())
	}
	return a, nil
}

// tell sends a note.
func (a *assistant) tell(note any) error {
	if err := a.to.Encode(note); err != nil {
		return a.failed(err)
	}
	return nil
}

// hear waits for the next report, or for ctx.
func (a *assistant) hear(ctx context.Context, report any) error {
	heard := make(chan error, 1)
	go func() { heard <- a.from.Decode(report) }()
	select {
	case err := <-heard:
		if err != nil {
			return a.failed(err)
		}
		return nil
	case <-ctx.Done():
		// The decoder is given up with the process: its end ends the goroutine.
		err := errors.Join(ctx.Err(), a.kill())
		<-heard
		return err
	}
}

func (a *assistant) failed(err error) error {
	return fmt.Errorf("the other process (task %q) failed: %w; it said: %s", a.task, err, a.stderr.String())
}

// assistantGrace is how long an assistant that was told to end may take.
const assistantGrace = 30 * time.Second

// end tells the assistant to end and waits for it. It may be called again.
func (a *assistant) end() error {
	a.stdin.Close() // closed before, perhaps
	timer := time.AfterFunc(assistantGrace, func() { a.command.Process.Kill() })
	defer timer.Stop()
	return a.wait()
}

// kill ends it at once, as kill -9 does.
func (a *assistant) kill() error {
	if a.command.ProcessState != nil {
		return nil
	}
	err := a.command.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	a.stdin.Close()
	_ = a.command.Wait() // says that it was killed
	return err
}

func (a *assistant) wait() error {
	if a.command.ProcessState != nil {
		return nil
	}
	if err := a.command.Wait(); err != nil {
		return a.failed(err)
	}
	return nil
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 2 << 10

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if n := len(t.text) - tailBytes; n > 0 {
		t.text = append(t.text[:0], t.text[n:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return "nothing"
	}
	return string(t.text)
}
