package nbd

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tool finds a program, or skips the test and names the Debian package that has it.
func tool(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian package %s)", name, debian)
	}
	return path
}

// run runs a program, which must succeed, and returns what it printed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// parseJSON skips notices that some programs print first.
func parseJSON(t testing.TB, text string, into any) {
	t.Helper()
	if at := strings.IndexAny(text, "{["); at > 0 {
		text = text[at:]
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
}

// contents is what a test's device holds at first: data, a hole, data.
func contents(size int) []byte {
	b := make([]byte, size)
	copy(b, pattern(size/4, 1))
	copy(b[size/2:], pattern(size/4, 77))
	return b
}

func (m *Memory) store(off uint64, p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := 0; at < len(p); at += memoryPage {
		if page := p[at:min(at+memoryPage, len(p))]; len(bytes.Trim(page, "\x00")) > 0 {
			m.writeAt(page, off+uint64(at))
		}
	}
}

func (m *Memory) load() []byte {
	b := make([]byte, m.info.Size)
	m.mu.RLock()
	defer m.mu.RUnlock()
	m.readAt(b, 0)
	return b
}

func TestNbdinfo(t *testing.T) {
	nbdinfo := tool(t, "nbdinfo", "libnbd-bin")
	const size = 4 << 20
	s, m := serveMemory(t, size)
	m.store(0, contents(size))
	m.SetInfo(func(i *Info) { i.MinBlock, i.Description, i.ReadOnly = 4096, "a described export", true })

	var info struct {
		Protocol string
		Exports  []struct {
			Name       string   `json:"export-name"`
			Size       uint64   `json:"export-size"`
			Contexts   []string `json:"contexts"`
			Desc       string   `json:"description"`
			ReadOnly   bool     `json:"is_read_only"`
			Flush      bool     `json:"can_flush"`
			MultiConn  bool     `json:"can_multi_conn"`
			DF         bool     `json:"can_df"`
			MinBlock   uint32   `json:"block_size_minimum"`
			MaxPayload uint32   `json:"block_size_maximum"`
		}
	}
	parseJSON(t, run(t, nbdinfo, "--json", s.uri("vol")), &info)
	if len(info.Exports) != 1 {
		t.Fatalf("%+v", info)
	}
	e := info.Exports[0]
	if e.Name != "vol" || e.Size != size || !e.ReadOnly || !e.Flush || !e.MultiConn || !e.DF || e.MinBlock != 4096 ||
		e.MaxPayload != 32<<20 || len(e.Contexts) != 1 || e.Contexts[0] != "base:allocation" || e.Desc != "a described export" {
		t.Errorf("%+v", e)
	}

	var extents []struct{ Offset, Length, Type int }
	parseJSON(t, run(t, nbdinfo, "--map", "--json", s.uri("vol")), &extents)
	var got []int
	for _, x := range extents {
		got = append(got, x.Offset, x.Length, x.Type)
	}
	const q = size / 4
	if want := []int{0, q, 0, q, q, 3, 2 * q, q, 0, 3 * q, q, 3}; !slices.Equal(got, want) {
		t.Errorf("map %v, want %v", got, want)
	}
	if list := run(t, nbdinfo, "--list", s.uri("")); !strings.Contains(list, `export="vol"`) {
		t.Errorf("list lacks vol:\n%s", list)
	}
}

func TestNbdcopy(t *testing.T) {
	nbdcopy := tool(t, "nbdcopy", "libnbd-bin")
	const size = 48 << 20
	want := contents(size)
	dir := shortTempDir(t)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, want, 0o600); err != nil {
		t.Fatal(err)
	}
	s, m := serveMemory(t, size)
	run(t, nbdcopy, "--flush", from, s.uri("vol"))
	if !bytes.Equal(m.load(), want) {
		t.Fatal("the export differs from the file copied to it")
	}
	run(t, nbdcopy, s.uri("vol"), to)
	got, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the file differs from the export it was copied from")
	}
	other, om := serveMemory(t, size)
	run(t, nbdcopy, s.uri("vol"), other.uri("vol"))
	if !bytes.Equal(om.load(), want) {
		t.Fatal("the export differs from the export it was copied from")
	}
}

// python finds an interpreter with libnbd's module.
func python(t testing.TB) string {
	t.Helper()
	const path = "/usr/bin/python3"
	if exec.Command(path, "-c", "import nbd").Run() != nil {
		t.Skip("python module nbd is not installed (Debian package python3-libnbd)")
	}
	return path
}

func TestLibnbd(t *testing.T) {
	py := python(t)
	s, m := serveMemory(t, 16<<20)
	m.SetInfo(func(i *Info) { i.MinBlock, i.MaxPayload = 512, 4<<20 })
	run(t, py, "testdata/libnbd.py", s.uri("vol"))
	if n := s.Counters().RefusedRequests; n < 8 {
		t.Errorf("%d refused requests counted, the script makes at least 8", n)
	}
}

func TestLibnbdWithoutStructuredReplies(t *testing.T) {
	py := python(t)
	s, _ := serveMemory(t, 16<<20)
	run(t, py, "-c", `
import nbd, sys, os
h = nbd.NBD()
h.set_request_structured_replies(False)
h.connect_uri(sys.argv[1])
assert not h.get_structured_replies_negotiated()
data = os.urandom(100000)
h.pwrite(data, 12345)
assert h.pread(100000, 12345) == data
assert h.pread(4096, 8 << 20) == bytearray(4096)
h.shutdown()
`, s.uri("vol"))
}

func TestQemuImg(t *testing.T) {
	qemu := tool(t, "qemu-img", "qemu-utils")
	const size = 16 << 20
	want := contents(size)
	dir := shortTempDir(t)
	raw, back := filepath.Join(dir, "raw"), filepath.Join(dir, "back")
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	s, m := serveMemory(t, size)
	run(t, qemu, "convert", "-n", "-f", "raw", "-O", "raw", raw, s.uri("vol"))
	if !bytes.Equal(m.load(), want) {
		t.Fatal("the export differs from the image converted to it")
	}
	run(t, qemu, "compare", "-f", "raw", "-F", "raw", raw, s.uri("vol"))
	run(t, qemu, "convert", "-f", "raw", "-O", "raw", s.uri("vol"), back)
	run(t, qemu, "compare", "-f", "raw", "-F", "raw", raw, back)
	var extents []struct {
		Start, Length int
		Data, Zero    bool
	}
	parseJSON(t, run(t, qemu, "map", "--output=json", "-f", "raw", s.uri("vol")), &extents)
	data := 0
	for _, x := range extents {
		if x.Data {
			data += x.Length
		}
	}
	if data != size/2 {
		t.Errorf("%d bytes of data in the map, want %d: %+v", data, size/2, extents)
	}
	m.store(5, []byte{want[5] + 1})
	out, err := exec.Command(qemu, "compare", "-f", "raw", "-F", "raw", raw, s.uri("vol")).CombinedOutput()
	if err == nil {
		t.Errorf("a changed export compares as equal: %s", out)
	}
}

func TestQemuIO(t *testing.T) {
	qemu := tool(t, "qemu-io", "qemu-utils")
	s, m := serveMemory(t, 16<<20)
	m.SetInfo(func(i *Info) { i.MinBlock = 4096 }) // qemu-io's odd sectors: read, modify, write
	out := run(t, qemu, "-f", "raw",
		"-c", "write -P 0xab 0 1M",
		"-c", "write -f -P 0xcd 1M 64k",
		"-c", "write -P 0x11 512 512",
		"-c", "read -P 0xab 0 512",
		"-c", "read -P 0x11 512 512",
		"-c", "read -P 0xab 1024 1047552",
		"-c", "read -P 0xcd 1M 64k",
		"-c", "flush",
		"-c", "write -z 64k 64k",
		"-c", "write -z -u 128k 64k",
		"-c", "discard 192k 64k",
		"-c", "read -P 0 64k 192k",
		"-c", "read -P 0xab 256k 64k",
		"-c", "aio_write -P 0x77 2M 1M", "-c", "aio_write -P 0x78 3M 1M", "-c", "aio_flush",
		"-c", "read -P 0x77 2M 1M", "-c", "read -P 0x78 3M 1M",
		s.uri("vol"))
	if strings.Contains(out, "failed") || strings.Contains(out, "error") {
		t.Errorf("qemu-io says\n%s", out)
	}
	n := s.Counters().Requests
	for _, cmd := range []Command{CmdRead, CmdWrite, CmdFlush, CmdTrim, CmdWriteZeroes} {
		if n[cmd] == 0 {
			t.Errorf("qemu-io sent no %v", cmd)
		}
	}
}

func TestFio(t *testing.T) {
	fio := tool(t, "fio", "fio")
	if help := run(t, fio, "--enghelp"); !strings.Contains(help, "nbd") {
		t.Skip("fio has no nbd engine (Debian package fio, built with libnbd)")
	}
	s, _ := serveMemory(t, 32<<20)
	out := run(t, fio, "--name=verify", "--ioengine=nbd", "--uri="+s.uri("vol"), "--rw=randwrite", "--bs=4k",
		"--iodepth=64", "--size=32m", "--verify=crc32c", "--verify_state_save=0", "--verify_fatal=1", "--output-format=json",
		"--directory="+shortTempDir(t))
	var report struct {
		Jobs []struct {
			Error int
			Read  struct {
				Bytes int `json:"io_bytes"`
			}
			Write struct {
				Bytes int `json:"io_bytes"`
			}
		}
	}
	parseJSON(t, out, &report)
	if len(report.Jobs) != 1 || report.Jobs[0].Error != 0 || report.Jobs[0].Read.Bytes != 32<<20 || report.Jobs[0].Write.Bytes != 32<<20 {
		t.Errorf("fio reports %+v", report)
	}
}
