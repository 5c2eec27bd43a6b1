package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/farside-storage/farside/engine"
	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/ring"
)

// open opens the devices of a pool.
func (r poolRequest) open(readOnly bool) (ring.Devices, error) {
	kind := ring.Uring
	if r.IO == config.IOPlain {
		kind = ring.Plain
	}
	return ring.Open(r.Devices, ring.OpenOptions{Kind: kind, ReadOnly: readOnly, AllowBuffered: true})
}

// formatPool makes a pool on devices that were looked at already.
func formatPool(_ context.Context, r formatRequest, report progressFunc) (info poolInfo, err error) {
	devs, err := r.open(false)
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, devs.Close()) }()
	for _, d := range devs.Info() {
		info.Bytes += uint64(d.Size)
	}
	report("format", 0, info.Bytes)
	if r.Extent%engine.BlockSize != 0 {
		return info, usage("", "--extent %s is not a multiple of %d bytes", r.Extent, engine.BlockSize)
	}
	if _, err := engine.Format(devs, engine.FormatOptions{Name: r.Name, ExtentBlocks: uint32(r.Extent / engine.BlockSize),
		JournalBytes: int64(r.Journal), VirtualBytes: int64(r.Map), Created: time.Now().Unix()}); err != nil {
		return info, err
	}
	checked, err := engine.Check(devs, engine.CheckOptions{})
	if err != nil {
		return info, err
	}
	if !checked.OK() {
		return info, fmt.Errorf("the new pool does not read back as written: %+v", append(checked.Damage, checked.Repairable...))
	}
	report("format", info.Bytes, info.Bytes)
	info.Pool, info.Name, info.Devices, info.DataBytes = checked.UUID, checked.Pool, r.Devices, checked.Blocks*engine.BlockSize
	return info, nil
}

// withPool opens a pool that no secondary control has open, for one change.
func withPool(r poolRequest, f func(*engine.Pool) error) (err error) {
	devs, err := r.open(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devs.Close()) }()
	pool, err := engine.Open(devs, engine.Options{})
	if err != nil {
		return err
	}
	return errors.Join(f(pool), pool.Close())
}

func listVolumes(_ context.Context, r poolRequest) (volumes []volumeInfo, err error) {
	devs, err := r.open(true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, devs.Close()) }()
	report, err := engine.Check(devs, engine.CheckOptions{})
	if err != nil {
		return nil, err
	}
	if len(report.Damage) > 0 {
		return nil, fmt.Errorf("the pool is damaged: %v", damageOf(report.Damage[0], false))
	}
	for _, g := range report.Groups {
		for _, v := range g.Volumes {
			volumes = append(volumes, checkedVolume(g, v))
		}
	}
	return volumes, nil
}

func checkedVolume(g engine.CheckGroup, v engine.CheckVolume) volumeInfo {
	return volumeInfo{Group: g.Name, Name: v.Name, Bytes: v.Size, CG: g.Final, Standing: v.Standing, WholeSince: v.WholeSince, SetAsideAt: v.SetAsideAt}
}

func createVolume(ctx context.Context, r poolRequest, v config.Volume) error {
	return withPool(r, func(p *engine.Pool) error {
		_, err := p.CreateVolume(ctx, v.Group, v.Name, uint64(v.Size))
		return err
	})
}

// checkPool verifies a pool that no secondary control has open.
func checkPool(_ context.Context, r checkRequest, report progressFunc) (out checkReport, err error) {
	devs, err := r.open(true)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, devs.Close()) }()
	found, err := engine.Check(devs, engine.CheckOptions{Data: r.Data, Progress: func(done, total uint64) {
		report("data", done*engine.BlockSize, total*engine.BlockSize)
	}})
	if err != nil {
		return out, err
	}
	out = checkReport{OK: found.OK(), Structures: found.Structures, DataBlocks: found.Scanned, Volumes: []volumeInfo{}}
	for _, g := range found.Groups {
		for _, v := range g.Volumes {
			out.Volumes = append(out.Volumes, checkedVolume(g, v))
		}
	}
	add := func(findings []engine.Finding, redundant bool) {
		for _, f := range findings {
			out.Damage = append(out.Damage, damageOf(f, redundant))
		}
	}
	add(found.Damage, false)
	add(found.Repairable, true)
	return out, nil
}

func damageOf(f engine.Finding, redundant bool) checkDamage {
	return checkDamage{Structure: f.Structure, Device: f.Device, Offset: f.Offset, Text: f.Text, Redundant: redundant}
}

// dumpPool prints one structure of a pool that no secondary control has open.
func dumpPool(_ context.Context, r dumpRequest, w io.Writer) (err error) {
	devs, err := r.open(true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devs.Close()) }()
	encode := json.NewEncoder(w)
	return engine.Dump(devs, []engine.Section{engine.Section(r.What)}, func(l engine.Line) error {
		if r.Volume != "" && (l.Group != r.Group || l.Volume != r.Volume) || r.CG != 0 && l.CG != r.CG {
			return nil
		}
		if r.JSON {
			return encode.Encode(l)
		}
		_, err := fmt.Fprintln(w, l)
		return err
	})
}
