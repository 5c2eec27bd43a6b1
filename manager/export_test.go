package manager

import (
	"slices"
	"testing"

	"github.com/farside-storage/farside/wire"
)

// Site lets tests outside of the package, which may import implementations of Log and Election, use the fake controls.
type Site struct{ s *site }

func NewSite(t *testing.T, primaries, secondaries int) Site {
	return Site{newSite(t, primaries, secondaries)}
}

// Options of a manager of the site at addrs, without a log.
func (s Site) Options(t *testing.T, name string, addrs map[string]string) Options {
	o := s.s.options(addrs, nil, memoryAudit(t))
	o.Name = name
	return o
}

func (s Site) Listen() map[string]string { return s.s.listen() }

func (s Site) Await(what string, pred func() bool) { s.s.t.Helper(); s.s.await(what, pred) }

func (s Site) AwaitFinal(n int) { s.s.t.Helper(); s.s.awaitFinal(n) }

// See has f called, one call at a time, for every message a control takes, before it acts; if false, it does not act.
func (s Site) See(f func(control string, epoch uint64, m wire.Message) bool) {
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	s.s.see = nil
	if f != nil {
		s.s.see = func(control string, m wire.Message) bool { return f(control, m.(wire.Commanded).Head().Epoch, m) }
	}
}

// Finals are the newest final CGs of the secondaries. Only to be called in Await and See.
func (s Site) Finals() (out []uint64) {
	for _, x := range s.s.sec {
		out = append(out, x.final)
	}
	return out
}

// Linked are the CGs that the secondaries show. Only to be called in Await and See.
func (s Site) Linked() (out []uint64) {
	for _, x := range s.s.sec {
		out = append(out, x.linked)
	}
	return out
}

// Reverted is how often a link was taken back. Only to be called in Await and See.
func (s Site) Reverted() (n int) {
	for _, x := range s.s.sec {
		n += x.reverted
	}
	return n
}

// Epochs are the highest epochs that the controls, in order of name, have seen. Only to be called in Await and See.
func (s Site) Epochs() (out []uint64) {
	for _, p := range s.s.prim {
		out = append(out, p.epoch)
	}
	for _, x := range s.s.sec {
		out = append(out, x.epoch)
	}
	return out
}

// Locked calls f while nothing happens at the site.
func (s Site) Locked(f func()) {
	s.s.mu.Lock()
	defer s.s.mu.Unlock()
	f()
}

// Names of all controls.
func (s Site) Names() []string {
	prim, sec := s.s.names()
	return slices.Concat(prim, sec)
}

// AskStatus asks the manager at addr as a tool does.
func AskStatus(t *testing.T, addr string) NodeStatus {
	t.Helper()
	st, err := ask(t, dialTool(t, addr), &wire.Status{})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// AskPause asks the manager at addr to pause the group.
func AskPause(t *testing.T, addr string) error {
	t.Helper()
	_, err := ask(t, dialTool(t, addr), &wire.GroupChange{Group: "g", Action: wire.GroupPause})
	return err
}
