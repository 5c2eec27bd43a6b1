package target

import (
	"fmt"
	"sync"
)

// leaders remembers which manager leads each group: who sent the newest command that was obeyed. The pool keeps
// the epoch; the name is for people, and is forgotten when the node ends.
type leaders struct {
	mu      sync.Mutex
	byGroup map[string]leader
}

type leader struct {
	name  string
	epoch uint64
}

func (l *leaders) note(group, name string, epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byGroup == nil {
		l.byGroup = map[string]leader{}
	}
	if epoch >= l.byGroup[group].epoch {
		l.byGroup[group] = leader{name, epoch}
	}
}

// name of the group's leader, "" if not known.
func (l *leaders) name(group string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byGroup[group].name
}

// explain adds to the refusal of a stale epoch who leads.
func (l *leaders) explain(group string, err error) error {
	if name := l.name(group); name != "" {
		return fmt.Errorf("%w: manager %q leads the group", err, name)
	}
	return err
}
