package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/wire"
)

// site is a primary with volume shop/data, and its secondary, as tools see them.
type site struct {
	volumes []string // of the primary
	file    *[]string
	copies  map[string]string // of the secondary: standing
	asks    int               // until the first copy is whole, and until a volume has left
	told    []string
	refuse  string // what is refused, by the name of its type
	early   int    // so many times setting aside is refused: the primary is still attached
}

func (s *site) tell(_ context.Context, at config.Address, m wire.Message) ([]byte, error) {
	if _, ask := m.(*wire.Status); !ask {
		s.told = append(s.told, fmt.Sprintf("%s %v", at, m.Type()))
		if s.refuse == m.Type().String() {
			return nil, &wire.RemoteError{Message: wire.Error{Code: wire.CodeState, Text: "it is Sunday"}}
		}
	}
	switch m := m.(type) {
	case *wire.Volume:
		s.told[len(s.told)-1] += " " + m.Action.String()
		switch m.Action {
		case wire.VolumeMake:
			s.copies[m.Name] = "unattached"
		case wire.VolumeSetAside:
			if s.early--; s.early >= 0 {
				return nil, &wire.RemoteError{Message: wire.Error{Code: wire.CodeState, Text: "attached"}}
			}
			s.copies[m.Name] = "set aside"
		case wire.VolumeDelete:
			delete(s.copies, m.Name)
		}
	case *wire.Reload:
		s.volumes = *s.file
	}
	if strings.HasSuffix(at.Addr, ":7400") {
		return json.Marshal(s.secondary())
	}
	return json.Marshal(s.primary())
}

func (s *site) secondary() target.Status {
	g := target.GroupStatus{Name: "shop"}
	for name := range s.copies {
		g.Volumes = append(g.Volumes, target.VolumeStatus{Name: name})
	}
	return target.Status{Groups: []target.GroupStatus{g}}
}

func (s *site) primary() primary.Status {
	s.asks--
	g := primary.GroupStatus{Name: "shop"}
	for _, name := range s.volumes {
		g.Volumes = append(g.Volumes, primary.VolumeStatus{Name: name, Size: 1 << 20,
			Copies: []primary.CopyStatus{{Secondary: "127.0.0.1:7400", FirstCopyDone: s.asks <= 0, CatchupBlocks: uint64(max(s.asks, 0))}}})
	}
	return primary.Status{Groups: []primary.GroupStatus{g}}
}

// volumesOf writes the primary's file.
func volumesOf(t *testing.T, names ...string) string {
	t.Helper()
	text := "[node]\nname = \"a1\"\nlisten = \"127.0.0.1:7401\"\nstate_dir = \"/tmp\"\n[primary]\nnbd = \"127.0.0.1:10809\"\n"
	for _, name := range names {
		text += fmt.Sprintf("[[primary.volume]]\nname = %q\ngroup = \"shop\"\nfile = \"/srv/%s\"\nsize = \"1MiB\"\nsecondary = \"127.0.0.1:7400\"\n", name, name)
	}
	path := filepath.Join(t.TempDir(), "a1.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVolumesOfARunningGroup(t *testing.T) {
	add := []string{"127.0.0.1:7400 Volume make", "127.0.0.1:7401 Reload"}
	remove := []string{"127.0.0.1:7401 Reload", "127.0.0.1:7400 Volume set-aside"}
	for _, c := range []struct {
		name   string
		args   []string
		file   []string // volumes in it
		was    []string // volumes of the primary
		copies []string
		refuse string
		early  int
		code   int
		told   []string
		says   []string
	}{
		{name: "add", args: []string{"add-volume", "shop", "new"}, file: []string{"data", "new"}, was: []string{"data"}, told: add, says: []string{"whole", "secondary's file"}},
		{name: "add again", args: []string{"add-volume", "shop", "new"}, file: []string{"data", "new"}, was: []string{"data", "new"}, copies: []string{"new"}, told: add, says: []string{"whole"}},
		{name: "add and go", args: []string{"add-volume", "shop", "new", "--no-wait"}, file: []string{"data", "new"}, was: []string{"data"}, told: add, says: []string{"goes on by itself"}},
		{name: "add what is not in the file", args: []string{"add-volume", "shop", "new"}, file: []string{"data"}, code: exitUsage, says: []string{"no volume shop/new"}},
		{name: "not made", args: []string{"add-volume", "shop", "new"}, file: []string{"data", "new"}, refuse: "Volume", code: exitFailed, told: []string{"127.0.0.1:7400 Volume"}, says: []string{"Sunday", "nothing was changed"}},
		{name: "not taken", args: []string{"add-volume", "shop", "new"}, file: []string{"data", "new"}, refuse: "Reload", code: exitFailed, told: add, says: []string{"Sunday", "done so far: the secondary", "run this command again"}},
		{name: "remove", args: []string{"remove-volume", "shop", "new"}, file: []string{"data"}, was: []string{"data", "new"}, copies: []string{"new"}, told: remove, says: []string{"set the copy aside", "--delete"}},
		{name: "remove early", args: []string{"remove-volume", "shop", "new"}, file: []string{"data"}, was: []string{"data", "new"}, copies: []string{"new"}, early: 2,
			told: append(append([]string{}, remove...), remove[1], remove[1]), says: []string{"set the copy aside"}},
		{name: "remove and delete", args: []string{"remove-volume", "shop", "new", "--delete"}, file: []string{"data"}, was: []string{"data"}, copies: []string{"new"},
			told: append(append([]string{}, remove...), "127.0.0.1:7400 Volume delete"), says: []string{"deleted the copy"}},
		{name: "remove again", args: []string{"remove-volume", "shop", "new", "--delete"}, file: []string{"data"}, was: []string{"data"}, told: remove[:1], says: []string{"no copy is left"}},
		{name: "remove what is in the file", args: []string{"remove-volume", "shop", "data"}, file: []string{"data"}, code: exitUsage, says: []string{"still has the volume"}},
		{name: "bad name", args: []string{"remove-volume", "shop", "a/b"}, file: []string{"data"}, code: exitUsage},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &site{volumes: c.was, file: &c.file, copies: map[string]string{}, asks: 2, refuse: c.refuse, early: c.early}
			for _, name := range c.copies {
				s.copies[name] = "awaited"
			}
			svc := services{tell: s.tell}
			var out, errs bytes.Buffer
			code := run(t.Context(), svc, append(append([]string{"group"}, c.args...), "--config", volumesOf(t, c.file...)), &out, &errs)
			if code != c.code {
				t.Fatalf("status %d, want %d\n%s%s", code, c.code, &out, &errs)
			}
			if d := cmp.Diff(c.told, s.told); d != "" {
				t.Errorf("what controls were told (-want +got)\n%s", d)
			}
			for _, part := range c.says {
				if all := out.String() + errs.String(); !strings.Contains(all, part) {
					t.Errorf("%q is not in\n%s", part, all)
				}
			}
		})
	}
}

func TestPrimaryReload(t *testing.T) {
	file := []string{"data", "new"}
	s := &site{volumes: []string{"data"}, file: &file}
	var out, errs bytes.Buffer
	if code := run(t.Context(), services{tell: s.tell}, []string{"primary", "reload", "127.0.0.1:7401"}, &out, &errs); code != 0 || !strings.Contains(out.String(), "shop/data, shop/new") {
		t.Errorf("status %d\n%s%s", code, &out, &errs)
	}
	s.refuse = "Reload"
	if code := run(t.Context(), services{tell: s.tell}, []string{"primary", "reload", "127.0.0.1:7401"}, &out, &errs); code != exitFailed || !strings.Contains(errs.String(), "Sunday") {
		t.Errorf("status %d\n%s%s", code, &out, &errs)
	}
	gone := services{tell: func(context.Context, config.Address, wire.Message) ([]byte, error) {
		return nil, errors.New("connection refused")
	}}
	if code := run(t.Context(), gone, []string{"primary", "reload", "127.0.0.1:7401"}, &out, &errs); code != exitUnreachable {
		t.Errorf("status %d\n%s%s", code, &out, &errs)
	}
}
