package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farside-storage/farside/engine"
)

// The floor of what a manager does with several controls: a message to each of as many processes, and an answer from
// each. Both ends use blocking system calls on one thread, and nothing else.

// roundMessage is the length of a message either way: about what HOLD, HELD, THAW and their like take with frame
// header and group name.
const roundMessage = 96

const (
	roundAnswer  = 'a' // answer at once
	roundDurable = 'd' // write 4 KiB to the device and flush it, then answer
)

func init() { tasks["answer"] = answerRounds }

// answerOrder is the order of an assistant that answers rounds.
type answerOrder struct {
	Device string `json:"device"`
}

// answerRounds listens, says where, and answers one connection until that ends.
func answerRounds(ctx context.Context, a *assignment) error {
	var order answerOrder
	if err := a.in.Decode(&order); err != nil {
		return err
	}
	device, err := os.OpenFile(order.Device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer device.Close() // what was written is of no use to anybody
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() }) // its error could only be that it was closed before
	defer func() {
		if stop() {
			l.Close()
		}
	}()
	if err := a.out.Encode(l.Addr().String()); err != nil {
		return err
	}
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	return serveRounds(conn, device)
}

func serveRounds(conn net.Conn, device *os.File) error {
	fd, err := blocking(conn)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mem, err := unix.Mmap(-1, 0, engine.BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned, for direct I/O
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	message := make([]byte, roundMessage)
	for {
		if n, err := unix.Read(fd, message); err != nil || n != len(message) {
			return err // the other side closes when it has enough
		}
		if message[0] == roundDurable {
			if _, err := unix.Pwrite(int(device.Fd()), mem, 0); err != nil {
				return err
			}
			if err := unix.Fdatasync(int(device.Fd())); err != nil {
				return err
			}
		}
		if _, err := unix.Write(fd, message); err != nil {
			return err
		}
	}
}

// blocking takes the descriptor of a TCP connection out of Go's poller.
func blocking(conn net.Conn) (int, error) {
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		return -1, errors.Join(err, conn.Close())
	}
	fd, err := unix.Dup(int(f.Fd())) // Fd makes it blocking
	return fd, errors.Join(err, f.Close(), conn.Close())
}

// rounds are connections to assistants that answer.
type rounds struct {
	answering []*assistant
	fds       []int
	message   []byte
}

// openRounds starts n assistants, each with a device of its own.
func (c *cluster) openRounds(ctx context.Context, n int) (_ *rounds, err error) {
	x := &rounds{message: make([]byte, roundMessage)}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.close())
		}
	}()
	for i := range n {
		device, err := c.makeDevice(ctx, fmt.Sprintf("floor%d", i+1), 1<<20)
		if err != nil {
			return nil, err
		}
		a, err := assist("answer", answerOrder{device})
		if err != nil {
			return nil, err
		}
		x.answering = append(x.answering, a)
		var at string
		if err := a.hear(ctx, &at); err != nil {
			return nil, err
		}
		conn, err := net.Dial("tcp", at)
		if err != nil {
			return nil, err
		}
		fd, err := blocking(conn)
		if err != nil {
			return nil, err
		}
		x.fds = append(x.fds, fd)
	}
	return x, nil
}

// round sends a message to all and waits for all answers.
func (x *rounds) round(kind byte) error {
	x.message[0] = kind
	for _, fd := range x.fds {
		if _, err := unix.Write(fd, x.message); err != nil {
			return fmt.Errorf("floor of rounds: %w", err)
		}
	}
	for _, fd := range x.fds {
		n, err := unix.Read(fd, x.message)
		if err == nil && n != len(x.message) {
			err = fmt.Errorf("%d bytes of an answer, want %d", n, len(x.message))
		}
		if err != nil {
			return fmt.Errorf("floor of rounds: %w", err)
		}
	}
	return nil
}

// roundTimes are the floors of one window.
type roundTimes struct {
	two  []time.Duration // two rounds answered at once
	four []time.Duration // four rounds, each with a write and a flush in all of them
}

// roundEvery is how often the floor is measured in a window: about as often as CGs follow each other.
const roundEvery = 10 * time.Millisecond

// measure makes rounds for d.
func (x *rounds) measure(ctx context.Context, d time.Duration) (out roundTimes, err error) {
	err = inOwnThread(func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for begin := time.Now(); time.Since(begin) < d; {
			start := time.Now()
			for range 2 {
				if err := x.round(roundAnswer); err != nil {
					return err
				}
			}
			two := time.Now()
			for range 4 {
				if err := x.round(roundDurable); err != nil {
					return err
				}
			}
			out.two, out.four = append(out.two, two.Sub(start)), append(out.four, time.Since(two))
			if err := sleep(ctx, roundEvery); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// close ends the assistants.
func (x *rounds) close() error {
	var errs []error
	for _, fd := range x.fds {
		errs = append(errs, unix.Close(fd))
	}
	for _, a := range x.answering {
		errs = append(errs, a.end())
	}
	return errors.Join(errs...)
}

// quantile of durations, which it sorts: the shortest that p (0 to 1) of them do not exceed; 0 if there are none.
func quantile(v []time.Duration, p float64) time.Duration {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(len(v)-1, int(p*float64(len(v))))]
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
