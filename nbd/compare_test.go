package nbd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fileDevice is a file served by blocking calls, as qemu-nbd serves one.
type fileDevice struct {
	*os.File
	size uint64
}

func (f fileDevice) Info() Info   { return Info{Size: f.size, Flush: true, FUA: true, MultiConn: true} }
func (f fileDevice) Flush() error { return f.Sync() }

func (f fileDevice) Trim(off, length int64) error { return unix.EOPNOTSUPP }

func (f fileDevice) WriteZeroes(off, length int64, noHole, fast bool) error { return unix.EOPNOTSUPP }

func (f fileDevice) BlockStatus(runs []Run, off, length int64) ([]Run, error) {
	return append(runs, Run{Len: uint64(length)}), nil
}

// BenchmarkAgainstQemu compares with qemu-nbd on the same file in memory: fio, 4 KiB, over
// Unix sockets, turn by turn. It wants -benchtime 1x. Set NBD_COMPARE to the seconds of each turn.
func BenchmarkAgainstQemu(b *testing.B) {
	seconds := os.Getenv("NBD_COMPARE")
	if seconds == "" {
		b.Skip("set NBD_COMPARE to the seconds of each turn, for example 5")
	}
	fio, qemu := tool(b, "fio", "fio"), tool(b, "qemu-nbd", "qemu-utils")
	const size = 256 << 20
	path := tempFile(b, size)
	qemuSocket := startQemu(b, qemu, path)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	adapter := Sync(fileDevice{file, size}, 4)
	b.Cleanup(adapter.Close)
	servers := []struct{ name, uri string }{
		{"qemu", "nbd+unix:///?socket=" + qemuSocket},
		{"memory", serve(b, Options{Exports: exportsOf(filledMemory(size))}).uri("")},
		{"file", serve(b, Options{Exports: exportsOf(adapter)}).uri("")},
	}
	for _, rw := range []string{"randread", "randwrite"} {
		for _, depth := range []int{32, 64, 128} {
			b.Run(fmt.Sprintf("%s/depth=%d", rw, depth), func(b *testing.B) {
				iops := make([]float64, len(servers))
				for range b.N {
					for range 2 {
						for i, s := range servers {
							iops[i] += fioIOPS(b, fio, s.uri, rw, depth, seconds) / 2 / float64(b.N)
						}
					}
				}
				b.ReportMetric(iops[0], "qemu-iops")
				for i, s := range servers[1:] {
					b.ReportMetric(iops[i+1], s.name+"-iops")
					b.ReportMetric(iops[i+1]/iops[0], s.name+"/qemu")
				}
			})
		}
	}
}

// tempFile makes a file without holes in memory.
func tempFile(b *testing.B, size int) string {
	b.Helper()
	f, err := os.CreateTemp("/dev/shm", "nbd")
	if err != nil {
		b.Skip("no /dev/shm: ", err)
	}
	b.Cleanup(func() { _ = os.Remove(f.Name()) })
	block := pattern(1<<20, 1)
	for range size >> 20 {
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return f.Name()
}

func startQemu(b *testing.B, qemu, path string) (socket string) {
	b.Helper()
	dir := shortTempDir(b)
	socket = filepath.Join(dir, "q")
	cmd := exec.Command(qemu, "--format=raw", "--persistent", "--shared=16", "--socket="+socket,
		"--pid-file="+filepath.Join(dir, "pid"), path)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	for begin := time.Now(); time.Since(begin) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
			return socket
		}
	}
	b.Fatal("qemu-nbd does not come up")
	return ""
}

func fioIOPS(b *testing.B, fio, uri, rw string, depth int, seconds string) float64 {
	b.Helper()
	out := run(b, fio, "--name=compare", "--ioengine=nbd", "--uri="+uri, "--rw="+rw, "--bs=4k", "--time_based",
		"--runtime="+seconds, fmt.Sprintf("--iodepth=%d", depth), "--output-format=json")
	type side struct{ IOPS float64 }
	var report struct{ Jobs []struct{ Read, Write side } }
	parseJSON(b, out, &report)
	return report.Jobs[0].Read.IOPS + report.Jobs[0].Write.IOPS
}
