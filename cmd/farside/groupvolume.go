package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/internal/target"
	"github.com/farside-storage/farside/primary"
	"github.com/farside-storage/farside/wire"
)

// volumeMoved is what add-volume and remove-volume print.
type volumeMoved struct {
	Group  string `json:"group"`
	Volume string `json:"volume"`
	// Done are the steps that hold now, whoever did them; Left what is still to happen or to be done.
	Done []string `json:"done"`
	Left []string `json:"left"`
}

func (m volumeMoved) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "volume %s\n", config.ExportName(m.Group, m.Volume))
	for _, text := range m.Done {
		if err == nil {
			_, err = fmt.Fprintf(w, "  done: %s\n", printable(text))
		}
	}
	for _, text := range m.Left {
		if err == nil {
			_, err = fmt.Fprintf(w, "  left: %s\n", printable(text))
		}
	}
	return err
}

func (m *volumeMoved) did(format string, args ...any) {
	m.Done = append(m.Done, fmt.Sprintf(format, args...))
}
func (m *volumeMoved) left(format string, args ...any) {
	m.Left = append(m.Left, fmt.Sprintf(format, args...))
}

// mover moves a volume into a group that runs, or out of it.
type mover struct {
	a       *app
	c       *cobra.Command
	timeout time.Duration // for each answer
	file    *config.File  // of the primary
	volumeMoved
}

// poll is the pause between two questions about something that takes its time.
const poll = 200 * time.Millisecond

func (a *app) newMover(c *cobra.Command, given []string, timeout time.Duration) (*mover, error) {
	for _, name := range given {
		if err := config.CheckName(name); err != nil {
			return nil, usage("", "%q: %w", name, err)
		}
	}
	if a.configPath == "" {
		return nil, usage("name the primary's file with --config", "which primary control is not said")
	}
	file, err := config.Load(a.configPath, config.RolePrimary, nil)
	if err != nil {
		return nil, configError(err)
	}
	return &mover{a: a, c: c, timeout: timeout, file: file, volumeMoved: volumeMoved{Group: given[0], Volume: given[1], Done: []string{}, Left: []string{}}}, nil
}

// configured finds the volume in the primary's file.
func (m *mover) configured() (config.PrimaryVolume, bool) {
	for _, v := range m.file.Primary.Volumes {
		if v.Group == m.Group && v.Name == m.Volume {
			return v, true
		}
	}
	return config.PrimaryVolume{}, false
}

// tell has a control do something; into, if not nil, gets its state.
func (m *mover) tell(at config.Address, what string, message wire.Message, into any) error {
	ctx, cancel := context.WithTimeout(m.c.Context(), m.timeout)
	defer cancel()
	document, err := m.a.tell(ctx, at, message)
	if told, ok := errors.AsType[*wire.RemoteError](err); ok {
		return &failure{code: exitFailed, err: &toldError{fmt.Sprintf("%s at %s: %s", what, at, told.Message.Text), told}, next: m.next()}
	}
	if err != nil {
		return unreachable("check that the control runs, and run this command again: what was done already is not done twice", fmt.Errorf("%s at %s: %w", what, at, err))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(document, into)
}

// toldError is what a control said, without how it came here.
type toldError struct {
	text  string
	cause *wire.RemoteError
}

func (e *toldError) Error() string { return e.text }
func (e *toldError) Unwrap() error { return e.cause }

// next tells what to do after a step that failed.
func (m *mover) next() string {
	if len(m.Done) == 0 {
		return "nothing was changed; remove the cause, and run this command again"
	}
	return "done so far: " + strings.Join(m.Done, "; ") + ". Remove the cause, and run this command again: what was done already is not done twice"
}

// onPrimary asks the primary how the volume is.
func (m *mover) onPrimary() (v primary.VolumeStatus, there bool, err error) {
	var s primary.Status
	if err := m.tell(m.file.Node.Listen, "asking the primary control", &wire.Status{}, &s); err != nil {
		return v, false, err
	}
	for _, g := range s.Groups {
		for _, v := range g.Volumes {
			if g.Name == m.Group && v.Name == m.Volume {
				return v, true, nil
			}
		}
	}
	return v, false, nil
}

func (a *app) groupAddVolumeCommand() *cobra.Command {
	var timeout time.Duration
	var noWait bool
	c := &cobra.Command{Use: "add-volume GROUP VOLUME", Short: "Add a volume to a group while it runs", Args: args(cobra.ExactArgs(2)),
		Long: `Add a volume to a group while it runs.

First write the volume into the file of its primary control, and name that file with --config. The command makes
the volume on its secondary control, has the primary read its file again, and waits until the first copy is whole.
The first copy is spread over many consistency groups, so the recovery point of the other volumes keeps advancing.
The copy is not served until it is whole.

If the volume was removed before and its copy was set aside, that copy is overwritten. The primary refuses if it does
not know the copy to be one of the same device or file.

The command may be interrupted and run again at any time.`,
		Example: "  farside group add-volume shop archive --config /etc/farside/a1.toml"}
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for each control's answer")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait for the first copy")
	c.RunE = func(c *cobra.Command, given []string) error {
		m, err := a.newMover(c, given, timeout)
		if err != nil {
			return err
		}
		v, ok := m.configured()
		if !ok {
			return usage("add a [[primary.volume]] to it, then run this command again", "%s has no volume %s", a.configPath, config.ExportName(m.Group, m.Volume))
		}
		if err := m.add(v, noWait); err != nil {
			return err
		}
		return a.print(m.volumeMoved)
	}
	return c
}

func (m *mover) add(v config.PrimaryVolume, noWait bool) error {
	size, err := sizeOf(v)
	if err != nil {
		return err
	}
	if err := m.tell(v.Secondary, "making the volume on its secondary control", &wire.Volume{Group: v.Group, Name: v.Name, Action: wire.VolumeMake, Size: size}, nil); err != nil {
		return err
	}
	m.did("the secondary control at %s has the volume, with %s", v.Secondary, config.Size(size))
	if err := m.tell(m.file.Node.Listen, "having the primary control read its file again", &wire.Reload{}, nil); err != nil {
		return err
	}
	m.did("the primary control at %s serves the volume to hosts and copies it", m.file.Node.Listen)
	if noWait {
		m.left("the first copy goes on by itself; \"farside status %s\" says how far it is", m.file.Node.Listen)
	} else if err := m.awaitWhole(v.Secondary.String()); err != nil {
		return err
	} else {
		m.did("the first copy is whole")
	}
	m.left("write the volume into the secondary's file too ([[secondary.volume]]), for whoever reads it")
	return nil
}

// sizeOf is the size of a volume as its primary sees it.
func sizeOf(v config.PrimaryVolume) (size uint64, err error) {
	if v.Size != 0 {
		return uint64(v.Size), nil
	}
	f, err := os.Open(v.Path())
	if err != nil {
		return 0, usage("write its size into the file if the device is not on this machine", "the size of volume %s: %w", v.Export(), err)
	}
	defer f.Close() // read only: nothing can be lost
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("the size of %s: %w", v.Path(), err)
	}
	return uint64(end) / primary.BlockSize * primary.BlockSize, nil
}

// awaitWhole waits for the end of the first copy.
func (m *mover) awaitWhole(secondary string) error {
	p := m.a.newProgress()
	defer p.close()
	for {
		v, there, err := m.onPrimary()
		if err != nil {
			return err
		}
		if !there {
			return &failure{code: exitFailed, err: errors.New("the primary control does not have the volume any more"), next: m.next()}
		}
		if v.LastError != "" {
			p.line("the primary control says: %s", printable(v.LastError))
		}
		for _, c := range v.Copies {
			if c.Secondary != secondary {
				continue
			}
			p.update("first copy", v.Size-min(v.Size, c.CatchupBlocks*primary.BlockSize), v.Size)
			if c.FirstCopyDone {
				return nil
			}
		}
		if err := m.pause(poll); err != nil {
			return err
		}
	}
}

func (m *mover) pause(d time.Duration) error {
	select {
	case <-m.c.Context().Done():
		return m.c.Context().Err()
	case <-time.After(d):
		return nil
	}
}

func (a *app) groupRemoveVolumeCommand() *cobra.Command {
	var timeout time.Duration
	var remove bool
	var secondaries []string
	c := &cobra.Command{Use: "remove-volume GROUP VOLUME", Short: "Remove a volume from a group while it runs", Args: args(cobra.ExactArgs(2)),
		Long: `Remove a volume from a group while it runs.

First disconnect the hosts from the volume, take it out of the file of its primary control, and name that file with
--config. The command has the primary read its file again, waits until no consistency group has the volume any more,
and has the secondary control set the copy aside: it stays readable as of the last group that it was part of. With
--delete the copy is deleted.

The command may be interrupted and run again at any time. Name the secondary control with --secondary if no other
volume of the file has a copy there.`,
		Example: "  farside group remove-volume shop archive --config /etc/farside/a1.toml\n  farside group remove-volume shop archive --delete --config /etc/farside/a1.toml"}
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for each control's answer")
	c.Flags().BoolVar(&remove, "delete", false, "destroy the copy")
	c.Flags().StringSliceVar(&secondaries, "secondary", nil, "address of a secondary control that has a copy (default: as the primary says)")
	c.RunE = func(c *cobra.Command, given []string) error {
		m, err := a.newMover(c, given, timeout)
		if err != nil {
			return err
		}
		if _, ok := m.configured(); ok {
			return usage("take it out of the file, then run this command again", "%s still has the volume %s", a.configPath, config.ExportName(m.Group, m.Volume))
		}
		if err := m.remove(secondaries, remove); err != nil {
			return err
		}
		return a.print(m.volumeMoved)
	}
	return c
}

func (m *mover) remove(named []string, remove bool) error {
	v, _, err := m.onPrimary()
	if err != nil {
		return err
	}
	at, err := m.copies(v, named)
	if err != nil {
		return err
	}
	if err := m.tell(m.file.Node.Listen, "having the primary control read its file again", &wire.Reload{}, nil); err != nil {
		return err
	}
	if err := m.awaitLeft(); err != nil {
		return err
	}
	m.did("the primary control at %s does not have the volume any more", m.file.Node.Listen)
	found := false
	for _, s := range at {
		some, err := m.setAside(s, remove)
		if err != nil {
			return err
		}
		found = found || some
	}
	if !found {
		m.did("no copy is left on %s", join(at))
	}
	m.left("take the volume out of the secondary's file too ([[secondary.volume]]): it would be made again when that is restarted")
	return nil
}

func join(at []config.Address) string {
	var names []string
	for _, a := range at {
		names = append(names, a.String())
	}
	return strings.Join(names, ", ")
}

// copies are the secondaries to look at: those that the primary names, and those that it may have named before an interruption.
func (m *mover) copies(v primary.VolumeStatus, named []string) (at []config.Address, err error) {
	for _, c := range v.Copies {
		named = append(named, c.Secondary)
	}
	for _, o := range m.file.Primary.Volumes {
		if o.Group == m.Group {
			named = append(named, o.Secondary.String())
		}
	}
	for _, name := range named {
		a, err := config.ParseAddress(name)
		if err != nil {
			return nil, usage("", "%q: %w", name, err)
		}
		if !slices.Contains(at, a) {
			at = append(at, a)
		}
	}
	return at, nil
}

// awaitLeft waits until the primary has left the volume out. That is between two consistency groups, or after seconds where none is formed.
func (m *mover) awaitLeft() error {
	for {
		_, there, err := m.onPrimary()
		if err != nil || !there {
			return err
		}
		if err := m.pause(poll); err != nil {
			return err
		}
	}
}

// setAside has one secondary set a copy aside, or delete it, and says whether it had one.
func (m *mover) setAside(at config.Address, remove bool) (found bool, err error) {
	var s target.Status
	if err := m.tell(at, "asking the secondary control", &wire.Status{}, &s); err != nil {
		return false, err
	}
	for _, g := range s.Groups {
		for _, v := range g.Volumes {
			found = found || g.Name == m.Group && v.Name == m.Volume
		}
	}
	if !found {
		return false, nil
	}
	change := wire.Volume{Group: m.Group, Name: m.Volume, Action: wire.VolumeSetAside}
	if err := m.insist(at, "setting the copy aside", &change); err != nil {
		return true, err
	}
	if !remove {
		m.did("the secondary control at %s has set the copy aside; it stays as it is", at)
		m.left("when the copy is not needed any more: the same command with --delete")
		return true, nil
	}
	change.Action = wire.VolumeDelete
	if err := m.insist(at, "deleting the copy", &change); err != nil {
		return true, err
	}
	m.did("the secondary control at %s has deleted the copy", at)
	return true, nil
}

// insist tries for a while: a volume is not set aside before the secondary has noticed that its primary attached anew without it, and not deleted while
// a consistency group of its group is being linked.
func (m *mover) insist(at config.Address, doing string, change *wire.Volume) error {
	for deadline := time.Now().Add(m.timeout); ; {
		err := m.tell(at, doing, change, nil)
		if err == nil || !errors.Is(err, wire.ErrState) || time.Now().After(deadline) {
			return err
		}
		if err := m.pause(poll / 10); err != nil {
			return err
		}
	}
}

// reloaded is what "primary reload" prints.
type reloaded struct {
	Address string   `json:"address"`
	Volumes []string `json:"volumes"`
}

func (r reloaded) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "primary at %s has read its file again; volumes: %s\n", r.Address, printable(strings.Join(r.Volumes, ", ")))
	return err
}

func (a *app) primaryReloadCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{Use: "reload [ADDRESS]", Short: "Have a running primary control read its configuration file again", Args: args(cobra.MaximumNArgs(1)),
		Long: `Have a running primary control read its configuration file again, as SIGHUP does. Volumes that are new in the file
join their groups; volumes that are not in it any more leave. New values of first_copy_rate and overwrite_copies take
effect. If anything else has changed, or a volume cannot join or leave, nothing is changed, and the command says why.

"farside group add-volume" and "remove-volume" do this as well as what the secondary control needs.`,
		Example: "  farside primary reload 127.0.0.1:7401"}
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for the answer")
	c.RunE = func(c *cobra.Command, given []string) error {
		at, err := a.statusAddresses(given)
		if err != nil {
			return err
		}
		m := &mover{a: a, c: c, timeout: timeout}
		var s primary.Status
		if err := m.tell(at[0], "having the primary control read its file again", &wire.Reload{}, &s); err != nil {
			return err
		}
		r := reloaded{Address: at[0].String(), Volumes: []string{}}
		for _, g := range s.Groups {
			for _, v := range g.Volumes {
				if !v.Leaving {
					r.Volumes = append(r.Volumes, config.ExportName(g.Name, v.Name))
				}
			}
		}
		return a.print(r)
	}
	return c
}
