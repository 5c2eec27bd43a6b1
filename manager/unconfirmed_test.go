package manager

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// silentLog is a memoryLog that can be made to take records without an answer, until its channel is closed.
type silentLog struct {
	memoryLog
	until atomic.Pointer[chan struct{}]
}

func (l *silentLog) Append(group string, r Record) error {
	if until := l.until.Load(); until != nil {
		<-*until
	}
	return l.memoryLog.Append(group, r)
}

func (l *silentLog) Where() string { return "/var/lib/silent.db" }

// TestSilentLogIsNamed: a change that the log does not take says which log that is, why, and that it may still take effect; which it does.
func TestSilentLogIsNamed(t *testing.T) {
	for name, standing := range map[string]func(context.Context) Leadership{
		"it does not answer": nil,
		"etcd has no leader": func(context.Context) Leadership { return Leadership{Error: "etcd has no leader"} },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, 1, 1)
			o := s.pipeOptions(func(string) bool { return false })
			log, until := &silentLog{}, make(chan struct{})
			o.Log, o.standing = log, standing
			n, stop := start(t, o)
			s.awaitFinal(1)
			log.until.Store(&until)
			ctx, cancel := context.WithTimeout(t.Context(), changeTimeout)
			defer cancel()
			began := time.Now()
			err := n.Pause(ctx, "g")
			for _, part := range []string{"/var/lib/silent.db", "group g", name, "may still take effect"} {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%v\nlacks %q", err, part)
				}
			}
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != changeTimeout {
				t.Errorf("%v after %v", err, time.Since(began))
			}
			close(until)
			synctest.Wait()
			if st, err := n.Status(t.Context()); err != nil || !st.Groups[0].Paused {
				t.Errorf("the log answers, and the group is %+v, %v", st.Groups, err)
			}
			log.mu.Lock()
			if !log.rec["g"].Paused {
				t.Error("the change is not in the log")
			}
			log.mu.Unlock()
			stop()
		})
	}
}
