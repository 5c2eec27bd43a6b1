package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/farside-storage/farside/internal/config"
)

// fences returns the contents of the code blocks of a language in a Markdown file.
func fences(t *testing.T, path, language string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, part := range strings.Split(string(text), "\n```"+language+"\n")[1:] {
		block, _, _ := strings.Cut(part, "\n```")
		blocks = append(blocks, block+"\n")
	}
	return blocks
}

// The files in README.md are valid, there is one for each role, and they fit together.
func TestReadmeFiles(t *testing.T) {
	nodes := map[config.Role]*config.File{}
	for _, block := range fences(t, "../../README.md", "toml") {
		name, _, _ := strings.Cut(block, "\n")
		node, err := config.Parse(name, []byte(block), "")
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		nodes[node.Role()] = node
	}
	if len(nodes) != len(config.Roles()) {
		t.Fatalf("%d roles have a file, want %d", len(nodes), len(config.Roles()))
	}
	copies := map[string]config.Size{}
	for _, v := range nodes[config.RoleSecondary].Secondary.Volumes {
		copies[v.Export()] = v.Size
	}
	for _, v := range nodes[config.RolePrimary].Primary.Volumes {
		if copies[v.Export()] != v.Size || v.Secondary != nodes[config.RoleSecondary].Node.Listen {
			t.Errorf("volume %s has no equal on its secondary", v.Export())
		}
	}
}

// The farside commands in README.md and CONTRIBUTING.md exist, with their flags.
func TestReadmeCommands(t *testing.T) {
	root := (&app{services: fakes()}).root()
	seen := 0
	for _, file := range []string{"../../README.md", "../../CONTRIBUTING.md"} {
		for line := range strings.Lines(strings.Join(fences(t, file, "sh"), "")) {
			words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "go run ./cmd/"))
			if len(words) == 0 || words[0] != "farside" {
				continue
			}
			seen++
			c, rest, err := root.Find(words[1:])
			if err != nil || c == root {
				t.Errorf("%s: %q is no command: %v", file, line, err)
				continue
			}
			if err := c.ParseFlags(rest); err != nil {
				t.Errorf("%s: %q: %v", file, line, err)
			}
			c.Flags().VisitAll(func(f *pflag.Flag) { f.Changed = false })
		}
	}
	if seen < 5 {
		t.Errorf("%d commands found, want at least 5: are the code blocks marked sh?", seen)
	}
}
