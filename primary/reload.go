package primary

import (
	"fmt"
	"slices"

	"github.com/farside-storage/farside/ring"
	"github.com/farside-storage/farside/wire"
)

// AddVolume has a volume join a group of the running node. devs holds its device alone; secondaries has the addresses
// of those that are not known yet. The node uses devs until release is called; an error changes nothing, and release
// is not called. The secondaries must have the volume: one that does not refuses the connection of the whole group.
func (n *Node) AddVolume(group string, spec VolumeSpec, devs ring.Devices, secondaries map[string]string, release func()) (*Volume, error) {
	if info := devs.Info(); len(info) != 1 || spec.Size > uint64(info[0].Size) {
		return nil, fmt.Errorf("volume %q of %d bytes on devices %+v: want one that is large enough", spec.Name, spec.Size, info)
	}
	for _, s := range spec.Secondaries {
		if secondaries[s] == "" {
			return nil, fmt.Errorf("volume %q: secondary %q has no address", spec.Name, s)
		}
	}
	worker, err := ring.NewWorker(devs, n.opt.Queue)
	if err != nil {
		return nil, err
	}
	b := n.enter()
	v, links, err := n.addVolume(group, spec, secondaries, &Volume{node: n, worker: worker, group: group, name: spec.Name, size: spec.Size,
		info: devs.Info()[0], release: release, unread: make(chan struct{}, 1)})
	n.leave(b)
	if err != nil {
		_ = worker.Close() // nothing was asked of it
		return nil, err
	}
	for _, l := range links {
		n.running.Go(l.run)
	}
	return v, nil
}

// addVolume is called with the core locked. It returns the links to be started.
func (n *Node) addVolume(group string, spec VolumeSpec, secondaries map[string]string, v *Volume) (*Volume, []*link, error) {
	if n.closing {
		return nil, nil, ErrClosed
	}
	index, err := n.core.AddVolume(group, spec)
	if err != nil {
		return nil, nil, err
	}
	v.index = index
	for _, s := range spec.Secondaries {
		if n.opt.Secondaries[s] == "" {
			n.opt.Secondaries[s] = secondaries[s]
		}
	}
	old := n.parts.Load()
	next := &parts{volumes: append(slices.Clone(old.volumes), v), links: n.newLinks(old.links)}
	n.parts.Store(next)
	return v, next.links[len(old.links):], nil
}

// RemoveVolume has a volume leave its group. Its copies stay as they are as of their last CG, and secondaries wait
// for it until they are told to set it aside. An error, if a host's requests are in progress, changes nothing.
func (n *Node) RemoveVolume(v *Volume) (err error) {
	if v.left.Swap(true) {
		return nil
	}
	n.visit(func(c *Core) { err = c.RemoveVolume(v.index) })
	if err != nil {
		v.left.Store(false)
	}
	return err
}

// Former is the identity of the copy that a volume had on a secondary before it left its group, zero if none is
// known. What is known is in the write-intent log; the place must be the same (VolumeSpec.Place).
func (n *Node) Former(group string, spec VolumeSpec, secondary string) (id wire.UUID) {
	n.visit(func(c *Core) { id = c.Former(group, spec, secondary) })
	return id
}

// SetOverwrite replaces CoreOptions.Overwrite.
func (n *Node) SetOverwrite(ids []wire.UUID) { n.visit(func(c *Core) { c.SetOverwrite(ids) }) }

// SetFirstCopyRate changes CoreOptions.FirstCopyRate.
func (n *Node) SetFirstCopyRate(rate int64) { n.visit(func(c *Core) { c.SetFirstCopyRate(rate) }) }

// leave ends the use of a volume's device. The core has nothing to do with it any more.
func (v *Volume) leave() {
	for v.reading.Load() > 0 {
		<-v.unread
	}
	err := v.closeWorker()
	if v.worker == v.node.worker {
		err = v.closeDevice()
	}
	if err != nil {
		v.node.log.Error("the device of a volume that has left cannot be let go of", "group", v.group, "volume", v.name, "error", err)
	}
}

// closeDevice closes one of the devices that the node was opened with; the others stay as they are.
func (v *Volume) closeDevice() error {
	d, ok := v.node.opt.Devices.(ring.DeviceCloser)
	if !ok {
		return nil // it is closed with the others
	}
	if err := v.worker.Do(ring.Request{Op: ring.OpForget, Device: v.device}); err != nil {
		return err
	}
	return d.CloseDevice(v.device)
}

// closeWorker waits for what is in progress. A worker that serves several volumes ends with the node.
func (v *Volume) closeWorker() (err error) {
	if v.worker == v.node.worker {
		return nil
	}
	v.closing.Do(func() {
		err = v.worker.Close()
		if v.release != nil {
			v.release()
		}
	})
	return err
}

// reload answers a tool.
func (n *Node) reload(s *session) {
	if n.opt.Reload == nil {
		s.push(&wire.Error{Code: wire.CodeState, Text: "this control has no configuration file to read again"})
		return
	}
	if err := n.opt.Reload(); err != nil {
		s.push(&wire.Error{Code: wire.CodeState, Text: err.Error()})
		return
	}
	s.push(&wire.StatusReply{JSON: n.statusJSON()})
}
