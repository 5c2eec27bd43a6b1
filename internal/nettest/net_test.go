package nettest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/farside-storage/farside/internal/sitetest"
)

var check = sitetest.Check

// echo serves on a host until the test ends.
func echo(t *testing.T, h *Host) string {
	t.Helper()
	var l net.Listener
	var err error
	h.Do(func() { l, err = net.Listen("tcp", h.IP+":0") })
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, h *Host, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	sitetest.Await(t, h.Name+" to reach "+addr, func() (err error) {
		h.Do(func() { c, err = net.DialTimeout("tcp", addr, time.Minute) })
		if err != nil && !errors.Is(err, syscall.EHOSTUNREACH) { // else nobody said for seconds who has the address: the switch was not run
			err = sitetest.Hopeless(err)
		}
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends data to an echo and wants it back.
func exchange(t *testing.T, c net.Conn, data []byte) {
	t.Helper()
	check(t, c.SetDeadline(time.Now().Add(time.Minute)))
	go c.Write(data) // the read says whether it came through
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%v; equal: %v", err, bytes.Equal(got, data))
	}
}

func TestHostsReachEachOther(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, b := n.Host("a"), n.Host("b")
	at := echo(t, b)
	c := dial(t, a, at)
	if from, _, _ := net.SplitHostPort(c.LocalAddr().String()); from != a.IP {
		t.Errorf("dialled from %s, the host is %s", from, a.IP)
	}
	large := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18)
	exchange(t, c, large)
	exchange(t, dial(t, b, at), large[:100]) // itself
	n.Change(func(tr *Traffic) { tr.Shape(Shape{Delay: 2 * time.Millisecond, Loss: 0.01}) })
	exchange(t, c, large[:1<<20])
}

func TestLostInOneDirection(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, b := n.Host("a"), n.Host("b")
	c := dial(t, a, echo(t, b))
	exchange(t, c, []byte("before"))
	type seen struct {
		from, to string
		data     string
	}
	saw := make(chan seen, 1000)
	n.Change(func(tr *Traffic) {
		tr.Lose(b, a)
		tr.Filter(func(_ *Traffic, from, to *Host, payload []byte) bool {
			select {
			case saw <- seen{from.Name, to.Name, string(payload)}:
			default:
			}
			return false
		})
	})
	_, err := c.Write([]byte("during"))
	check(t, err)
	for times := 0; times < 2; { // once, and again, for no answer comes
		switch got := <-saw; got {
		case seen{"a", "b", "during"}:
			times++
		case seen{"a", "b", "before"}: // a repetition that was on its way: the switch was slow
		default:
			t.Fatalf("carried %+v", got)
		}
	}
	n.Change((*Traffic).Heal)
	got := make([]byte, 6)
	check(t, c.SetDeadline(time.Now().Add(time.Minute)))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "during" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestFilterCutsAtOnce: what the filter sees when it cuts is lost already, and so is everything after it.
func TestFilterCutsAtOnce(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, b := n.Host("a"), n.Host("b")
	c := dial(t, a, echo(t, b))
	exchange(t, c, []byte("before"))
	cut := make(chan struct{})
	n.Change(func(tr *Traffic) {
		tr.Filter(func(tr *Traffic, from, to *Host, payload []byte) bool {
			tr.Isolate(b)
			tr.Filter(nil)
			close(cut)
			return false
		})
	})
	_, err := c.Write([]byte("now"))
	check(t, err)
	<-cut
	check(t, c.SetDeadline(time.Now().Add(500*time.Millisecond)))
	if got, err := c.Read(make([]byte, 10)); err == nil {
		t.Errorf("%d bytes came back", got)
	}
}

// TestReplacedHost: its connections are not closed, they are unknown to the machine that comes after it.
func TestReplacedHost(t *testing.T) {
	t.Parallel()
	n := New(t)
	a, b := n.Host("a"), n.Host("b")
	at := echo(t, b)
	c := dial(t, a, at)
	exchange(t, c, []byte("before"))
	b.Replace()
	check(t, c.SetDeadline(time.Now().Add(time.Minute)))
	if _, err := c.Write([]byte("after")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset: nobody knows the connection", err)
	}
	exchange(t, dial(t, a, echo(t, b)), []byte("again"))
}

// TestNothingStaysBehind: after the test that made them, no thread and no process is in the namespaces.
func TestNothingStaysBehind(t *testing.T) {
	var spaces []string
	t.Run("inner", func(t *testing.T) {
		n := New(t)
		h := n.Host("a")
		for _, s := range []*space{n.space, h.space} {
			link, err := os.Readlink(s.path())
			check(t, err)
			spaces = append(spaces, link)
		}
		cmd := exec.Command("sleep", "600") // dies with the thread
		check(t, h.Start(cmd))
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)); err != nil || link != spaces[1] {
			t.Errorf("the process is in %s, %v; want %s", link, err, spaces[1])
		}
		go cmd.Wait() // reaps it
	})
	if own, err := os.Readlink("/proc/self/ns/net"); err != nil || strings.Contains(strings.Join(spaces, " "), own) {
		t.Errorf("the process itself is in %s, %v", own, err)
	}
	for late := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) { // threads end when they end
		left := users(spaces)
		if len(left) == 0 {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("still there: %v", left)
		}
	}
}

func users(spaces []string) (left []string) {
	tasks, _ := filepath.Glob("/proc/[0-9]*/task/*/ns/net")
	for _, task := range tasks {
		link, err := os.Readlink(task)
		for _, s := range spaces {
			if err == nil && link == s {
				left = append(left, task)
			}
		}
	}
	return left
}
