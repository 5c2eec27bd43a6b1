package manager

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/wire"
)

// ask sends one message as a tool does, and returns the status that answers it.
func ask(t *testing.T, conn *wire.Conn, m wire.Message) (st NodeStatus, err error) {
	t.Helper()
	if err := conn.WriteMessage(m); err != nil {
		t.Fatal(err)
	}
	h, body, err := conn.Next()
	if err != nil {
		return st, err
	}
	reply, err := wire.Decode(h.Type, body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(reply.(*wire.StatusReply).JSON, &st); err != nil {
		t.Fatal(err)
	}
	return st, nil
}

// TestReq17_ToolsChangeGroups: over the wire, only what is named changes; the answer tells the new state, and a restart keeps it.
func TestReq17_ToolsChangeGroups(t *testing.T) {
	s := newSite(t, 1, 1)
	addrs := s.listen()
	log := openLog(t, filepath.Join(t.TempDir(), "log"))
	o := s.options(addrs, log, memoryAudit(t))
	o.Listen = "127.0.0.1:0"
	n, stop := start(t, o)
	s.awaitFinal(1)
	conn := dialTool(t, n.Addr().String())
	want := o.Groups[0].Settings

	st, err := ask(t, conn, &wire.GroupChange{Group: "g", Action: wire.GroupSet, JSON: []byte(`{"drain_timeout":"7s"}`)})
	want.DrainTimeout = 7 * time.Second
	if d := cmp.Diff(want, st.Groups[0].Settings); err != nil || d != "" {
		t.Fatalf("%v\n%s", err, d)
	}
	st, err = ask(t, conn, &wire.GroupChange{Group: "g", Action: wire.GroupSet, JSON: []byte(`{"interval":"3ms","rpo_alert":"0s"}`)})
	want.Interval, want.RPOAlert = 3*time.Millisecond, 0
	if d := cmp.Diff(want, st.Groups[0].Settings); err != nil || d != "" {
		t.Fatalf("%v\n%s", err, d)
	}
	for range 2 { // pausing twice is no error
		if st, err = ask(t, conn, &wire.GroupChange{Group: "g", Action: wire.GroupPause}); err != nil || !st.Groups[0].Paused {
			t.Fatalf("%v %+v", err, st.Groups)
		}
	}
	stop()

	n, _ = start(t, o)
	conn = dialTool(t, n.Addr().String())
	st, err = ask(t, conn, &wire.Status{})
	if d := cmp.Diff(want, st.Groups[0].Settings); err != nil || d != "" || !st.Groups[0].Paused {
		t.Fatalf("after a restart: %v, paused %v\n%s", err, st.Groups[0].Paused, d)
	}
	if st, err = ask(t, conn, &wire.GroupChange{Group: "g", Action: wire.GroupResume}); err != nil || st.Groups[0].Paused {
		t.Fatalf("%v %+v", err, st.Groups)
	}
	s.awaitFinal(2)
}

// TestToolsAreRefusedBadChanges: nothing changes, the reason is told, and the connection goes on.
func TestToolsAreRefusedBadChanges(t *testing.T) {
	s := newSite(t, 1, 1)
	o := s.options(s.listen(), &memoryLog{}, memoryAudit(t))
	o.Listen = "127.0.0.1:0"
	n, _ := start(t, o)
	conn := dialTool(t, n.Addr().String())
	set := func(group, object string) *wire.GroupChange {
		return &wire.GroupChange{Group: group, Action: wire.GroupSet, JSON: []byte(object)}
	}
	for _, c := range []struct {
		m    *wire.GroupChange
		code wire.ErrorCode
		says string
	}{
		{set("h", `{"interval":"1s"}`), wire.CodeUnknown, `"h"`},
		{&wire.GroupChange{Group: "h", Action: wire.GroupPause}, wire.CodeUnknown, `"h"`},
		{set("g", `{"intervall":"1s"}`), wire.CodeState, "known are"},
		{set("g", `{"interval":"1s","drain_timeout":"1ms"}`), wire.CodeState, "drain_timeout is 1ms: use a value from"},
		{set("g", `{"interval":"soon"}`), wire.CodeState, "interval"},
		{set("g", `{"interval":null}`), wire.CodeState, "null"},
		{set("g", `{"interval":5}`), wire.CodeState, "settings"},
		{set("g", `[]`), wire.CodeState, "settings"},
	} {
		var refused *wire.RemoteError
		if _, err := ask(t, conn, c.m); !errors.As(err, &refused) || refused.Message.Code != c.code || !strings.Contains(refused.Message.Text, c.says) {
			t.Errorf("%s %s: %v", c.m.Group, c.m.JSON, err)
		}
	}
	st, err := ask(t, conn, &wire.Status{})
	if d := cmp.Diff(o.Groups[0].Settings, st.Groups[0].Settings); err != nil || d != "" || st.Groups[0].Paused {
		t.Fatalf("%v, paused %v\n%s", err, st.Groups[0].Paused, d)
	}
}

// TestHaltedGroupIsNotChanged: a manager that leads the group no more must not say that it changed it.
func TestHaltedGroupIsNotChanged(t *testing.T) {
	s := newSite(t, 1, 1)
	s.sec[0].epoch = 1 << 62
	o := s.options(s.listen(), &memoryLog{}, memoryAudit(t))
	o.Listen = "127.0.0.1:0"
	halted := make(chan struct{})
	o.Watch = func(e Entry) {
		if e.Kind == EntryHalt {
			close(halted)
		}
	}
	n, _ := start(t, o)
	<-halted
	conn := dialTool(t, n.Addr().String())
	var refused *wire.RemoteError
	if _, err := ask(t, conn, &wire.GroupChange{Group: "g", Action: wire.GroupPause}); !errors.As(err, &refused) ||
		refused.Message.Code != wire.CodeState || !strings.Contains(refused.Message.Text, "Another manager leads") {
		t.Fatalf("%v", err)
	}
}

func TestSettingsWith(t *testing.T) {
	in := DefaultSettings()
	out, err := in.With([]byte(`{"coordination_timeout":"80ms"}`))
	want := in
	want.CoordinationTimeout = 80 * time.Millisecond
	if d := cmp.Diff(want, out); err != nil || d != "" {
		t.Fatalf("%v\n%s", err, d)
	}
	if d := cmp.Diff(DefaultSettings(), in); d != "" {
		t.Fatalf("the settings it was called on changed:\n%s", d)
	}
}
