package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/farside-storage/farside/ring"
)

// fio checks the floors: the same pattern, driven by the tool that everybody knows, tuned as bench's own loops are
// (registered buffers and files, batches).

// fioJob are the arguments of a load.
func (r *run) fioJob(l load, d time.Duration) []string {
	size := l.end - l.start
	if l.end == 0 {
		size = r.dev.region() - l.start
	}
	rw := map[ring.Op]string{ring.OpRead: "read", ring.OpWrite: "write"}[l.op]
	if l.random {
		rw = "rand" + rw
	}
	job := []string{"--name=floor", "--filename=" + r.dev.info().Path, "--ioengine=io_uring", "--direct=1", "--fixedbufs=1", "--registerfiles=1",
		"--thread=1", "--rw=" + rw, "--bs=" + strconv.Itoa(l.size), "--iodepth=" + strconv.Itoa(l.depth),
		"--offset=" + strconv.FormatInt(l.start, 10), "--size=" + strconv.FormatInt(size, 10), "--norandommap=1", "--randrepeat=0",
		"--time_based=1", fmt.Sprintf("--runtime=%dms", d.Milliseconds()), "--output-format=json"}
	if batch := strconv.Itoa(max(1, l.depth/8)); l.depth > 1 {
		job = append(job, "--iodepth_batch_submit="+batch, "--iodepth_batch_complete_min="+batch, "--iodepth_batch_complete_max="+strconv.Itoa(l.depth))
	}
	if l.flush {
		job = append(job, "--fdatasync=1")
	}
	return job
}

// fioFigures are what fio says of a load.
type fioFigures struct {
	perSecond float64 // requests
	cpu       float64 // nanoseconds of its thread for a request
}

// fio runs a load with fio.
func (r *run) fio(ctx context.Context, l load, d time.Duration) (x fioFigures, err error) {
	runtime.LockOSThread() // the kernel sends Pdeathsig when the thread that made the child ends
	defer runtime.UnlockOSThread()
	c := exec.CommandContext(ctx, "fio", r.fioJob(l, d)...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if ctx.Err() != nil {
		return x, ctx.Err()
	}
	if err != nil {
		return x, fmt.Errorf("fio: %w: %s%s", err, tailOf(stderr.Bytes()), tailOf(out))
	}
	return fioReport(out, l.op)
}

// fioReport reads fio's JSON (its terse form is wrong for some engines). Lines for people may stand before it.
func fioReport(out []byte, op ring.Op) (x fioFigures, err error) {
	start := bytes.IndexByte(out, '{')
	if start < 0 {
		return x, fmt.Errorf("fio printed no JSON: %s", tailOf(out))
	}
	type side struct {
		IOPS float64 `json:"iops"`
	}
	var report struct {
		Jobs []struct {
			Error int     `json:"error"`
			User  float64 `json:"usr_cpu"` // per cent
			Sys   float64 `json:"sys_cpu"`
			R     side    `json:"read"`
			W     side    `json:"write"`
		} `json:"jobs"`
	}
	if err := json.NewDecoder(bytes.NewReader(out[start:])).Decode(&report); err != nil {
		return x, fmt.Errorf("fio's JSON: %w", err)
	}
	if len(report.Jobs) != 1 || report.Jobs[0].Error != 0 {
		return x, fmt.Errorf("fio reports %d jobs, want one without an error: %s", len(report.Jobs), tailOf(out))
	}
	job := &report.Jobs[0]
	rate := job.W.IOPS
	if op == ring.OpRead {
		rate = job.R.IOPS
	}
	if rate <= 0 {
		return x, errors.New("fio's JSON has no rate")
	}
	return fioFigures{rate, (job.User + job.Sys) / 100 * 1e9 / rate}, nil
}

func tailOf(text []byte) string {
	return string(bytes.TrimSpace(text[max(0, len(text)-tailBytes):]))
}

// whyNoFio says why the floors are not compared; "": they are.
func (r *run) whyNoFio() string {
	if r.o.Kind != ring.Uring {
		return "not compared with fio: the devices are not reached with io_uring"
	}
	if _, err := exec.LookPath("fio"); err != nil {
		return "not compared with fio: it is not installed (Debian: fio)"
	}
	return ""
}
