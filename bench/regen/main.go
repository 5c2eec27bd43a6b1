// Command regen measures everything that BENCHMARKS.md shows and writes the figures into it:
//
//	go run ./bench/regen                  both kinds of loop device, as root
//	go run ./bench/regen -only alloc
//	go run ./bench/regen -only controls   what whole controls do together
//	go run ./bench/regen -device /dev/X   another device; what it holds is destroyed without a question
//
// Each table stands between a pair of comments in BENCHMARKS.md, "<!-- figures NAME -->" and "<!-- end NAME -->";
// the text around them is for people to keep true. Raw results go to bench/results.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/farside-storage/farside/bench"
)

const (
	document = "BENCHMARKS.md"
	results  = "bench/results"
)

func main() {
	if assisted, err := bench.Assist(); assisted {
		if err != nil {
			fmt.Fprintln(os.Stderr, "regen:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := regenerate(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "regen:", err)
		os.Exit(1)
	}
}

func regenerate(ctx context.Context) error {
	var o bench.Options
	only := flag.String("only", "", "one table: tmpfs, disk, device, controls or alloc; default: all but device, which needs -device")
	names := flag.String("names", "all", "workloads, separated by commas")
	flag.StringVar(&o.Device, "device", "", "measure on this device, too; what it holds is destroyed")
	flag.StringVar(&o.Dir, "dir", "", "folder of the backing file on disk; default: the one for temporary files")
	flag.Int64Var(&o.Size, "size", 8<<30, "bytes of the loop devices, and of the device that are used")
	flag.IntVar(&o.Seconds, "seconds", 0, "of each repetition; default 10")
	flag.IntVar(&o.Minutes, "minutes", 0, "of each run of workload steady; default 10")
	flag.IntVar(&o.Repetitions, "repetitions", 0, "default 3")
	flag.BoolVar(&o.Quick, "quick", false, "short runs, to see that it works")
	flag.Parse()
	if _, err := os.Stat(document); err != nil {
		return fmt.Errorf("run it in the folder that holds %s: %w", document, err)
	}
	o.Names = strings.Split(*names, ",")
	if *names == "all" {
		o.Names = slices.DeleteFunc(bench.Names(), func(name string) bool { return slices.Contains(controls, name) })
	}
	program, remove, err := buildFarside(ctx)
	if err != nil {
		return err
	}
	defer remove()
	o.Command = []string{program}
	o.Progress = func(line string) { fmt.Fprintln(os.Stderr, line) }
	for _, table := range []string{"tmpfs", "disk", "device", "controls", "alloc"} {
		if *only != "" && *only != table || table == "device" && o.Device == "" {
			continue
		}
		if err := fill(ctx, table, o); err != nil {
			return fmt.Errorf("%s: %w", table, err)
		}
	}
	return nil
}

// controls are the workloads of the table of that name: they run roles as processes, and do not care for the device
// of the other tables.
var controls = []string{"reads-nbd", "writes-primary", "rpo", "group", "idle"}

// buildFarside makes the program whose roles some workloads run.
func buildFarside(ctx context.Context) (program string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "farside-regen-")
	if err != nil {
		return "", nil, err
	}
	remove = func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "regen:", err)
		}
	}
	program = filepath.Join(dir, "farside")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/farside").CombinedOutput(); err != nil {
		remove()
		return "", nil, fmt.Errorf("build farside: %w\n%s", err, out)
	}
	return program, remove, nil
}

// fill measures one table and puts it in its place.
func fill(ctx context.Context, table string, o bench.Options) error {
	if table == "alloc" {
		return fillAlloc(ctx)
	}
	switch table {
	case "controls":
		o.Device, o.Loop, o.Names = "", "", controls
	case "tmpfs", "disk":
		o.Device, o.Loop = "", table
	}
	if slices.Contains(o.Names, "steady") {
		o.Pictures = filepath.Join(results, table)
		if err := os.MkdirAll(o.Pictures, 0o755); err != nil {
			return err
		}
	}
	report, err := bench.Run(ctx, o)
	if err != nil {
		return err
	}
	var md, raw, lines bytes.Buffer
	for _, err := range []error{report.WriteMarkdown(&md), report.WriteJSON(&raw), report.WriteGo(&lines)} {
		if err != nil {
			return err
		}
	}
	if err := keep(table+".json", raw.Bytes()); err != nil {
		return err
	}
	if err := keep(table+".txt", lines.Bytes()); err != nil {
		return err
	}
	return replace(table, md.String())
}

// fillAlloc runs the benchmarks of packages alloc and engine that are Go benchmarks.
func fillAlloc(ctx context.Context) error {
	c := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "Reserve|Take|Release|Open|MarkUsed|SwitchOfView", "-benchtime", "0.3s", "./alloc", "./engine")
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return fmt.Errorf("%v: %w\n%s", c.Args, err, out)
	}
	if err := keep("alloc.txt", out); err != nil {
		return err
	}
	return replace("alloc", "```\n"+string(out)+"```\n")
}

func keep(name string, contents []byte) error {
	if err := os.MkdirAll(results, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(results, name), contents, 0o644)
}

// replace puts text between the table's comments in the document.
func replace(table, text string) error {
	old, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	open, shut := "<!-- figures "+table+" -->\n", "<!-- end "+table+" -->\n"
	before, rest, ok := strings.Cut(string(old), open)
	_, after, ok2 := strings.Cut(rest, shut)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no place for it: want the lines %q and %q", document, open, shut)
	}
	return os.WriteFile(document, []byte(before+open+"\n"+text+"\n"+shut+after), 0o644)
}
