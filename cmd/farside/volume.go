package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/wire"
)

// volumeInfo describes a volume of a pool.
type volumeInfo struct {
	Group string `json:"group"`
	Name  string `json:"name"`
	// Bytes is the size.
	Bytes uint64 `json:"bytes"`
	// CG is the number of the newest final CG, 0 none.
	CG uint64 `json:"cg"`
	// Standing in the group: "unattached", "awaited" or "set aside".
	Standing string `json:"standing"`
	// WholeSince is the CG since which the volume has all of its first copy, 0 if it has not.
	WholeSince uint64 `json:"whole_since"`
	// SetAsideAt is the CG that the copy shows, if it is set aside.
	SetAsideAt uint64 `json:"set_aside_at,omitempty"`
}

// copyText says what the copy in a volume is good for.
func (v volumeInfo) copyText() string {
	text := "first copy not complete"
	if v.WholeSince > 0 {
		text = fmt.Sprintf("whole since CG %d", v.WholeSince)
	}
	if v.SetAsideAt > 0 {
		text += fmt.Sprintf(", set aside at CG %d", v.SetAsideAt)
	} else {
		text += ", " + v.Standing
	}
	return text
}

type volumeList struct {
	Volumes []volumeInfo `json:"volumes"`
}

func (l volumeList) writeText(w io.Writer) error {
	if len(l.Volumes) == 0 {
		_, err := fmt.Fprintln(w, "the pool has no volumes")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tSIZE\tFINAL CG\tCOPY")
	for _, v := range l.Volumes {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", config.ExportName(v.Group, v.Name), config.Size(v.Bytes), v.CG, v.copyText())
	}
	return t.Flush()
}

// volumeChange is what the commands that change a volume print.
type volumeChange struct {
	Group   string `json:"group"`
	Name    string `json:"name"`
	Bytes   uint64 `json:"bytes,omitempty"`
	Created bool   `json:"created,omitempty"`
	Deleted bool   `json:"deleted,omitempty"`
	// Now is the volume after it was set aside, or rejoined its group.
	Now *volumeInfo `json:"now,omitempty"`
}

func (v volumeChange) writeText(w io.Writer) error {
	text := "deleted"
	switch {
	case v.Created:
		text = "created with " + config.Size(v.Bytes).String()
	case v.Now != nil:
		text = "is now: " + v.Now.copyText()
	}
	_, err := fmt.Fprintf(w, "volume %s %s\n", config.ExportName(v.Group, v.Name), text)
	return err
}

func (a *app) volumeCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "volume",
		Short: "List, create, delete and set aside the volumes of a pool",
		Long: `List, create, delete and set aside the volumes of a pool that no secondary control has open. With --control,
delete and set aside the volumes of a secondary control that runs.

A volume is named GROUP/NAME, and matched with the primary's volume of that group and name. A running secondary
control creates the volumes of its configuration by itself.`,
	}, a.volumeListCommand(), a.volumeCreateCommand(), a.volumeDeleteCommand(), a.volumeSetAsideCommand(), a.volumeRejoinCommand())
}

func (a *app) volumeListCommand() *cobra.Command {
	var flags poolFlags
	c := &cobra.Command{Use: "list", Short: "List the volumes of a pool", Args: args(cobra.NoArgs)}
	flags.register(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		pool, err := flags.request(a, c.Flags())
		if err != nil {
			return err
		}
		volumes, err := a.listVolumes(c.Context(), pool)
		if err != nil {
			return err
		}
		return a.print(volumeList{Volumes: append([]volumeInfo{}, volumes...)})
	}
	return c
}

func (a *app) volumeCreateCommand() *cobra.Command {
	var flags poolFlags
	var size string
	c := &cobra.Command{
		Use: "create GROUP/NAME", Short: "Create a volume", Args: args(cobra.ExactArgs(1)),
		Example: "  farside volume create shop/data --size 64GiB --device /dev/nvme1n1",
	}
	flags.register(c.Flags())
	c.Flags().StringVar(&size, "size", "", "size, a multiple of 4 KiB, equal to the primary's")
	c.RunE = func(c *cobra.Command, given []string) error {
		v, err := parseVolume(given[0])
		if err != nil {
			return err
		}
		if size == "" {
			return usage("give the primary volume's size with --size", "the size is missing")
		}
		if v.Size, err = config.ParseSize(size); err == nil {
			err = config.CheckVolumeSize(v.Size)
		}
		if err != nil {
			return usage("", "--size: %w", err)
		}
		pool, err := flags.request(a, c.Flags())
		if err != nil {
			return err
		}
		if err := a.createVolume(c.Context(), pool, v); err != nil {
			return err
		}
		return a.print(volumeChange{Group: v.Group, Name: v.Name, Bytes: uint64(v.Size), Created: true})
	}
	return c
}

func (a *app) volumeDeleteCommand() *cobra.Command {
	var force bool
	c := a.volumeActionCommand("delete GROUP/NAME", wire.VolumeDelete, func(v config.Volume) error {
		if !force {
			return refused("add --force if the copy is not needed any more", "the copy of volume %s would be destroyed", v.Export())
		}
		return nil
	})
	c.Short = "Delete a volume and the copy in it"
	c.Flags().BoolVar(&force, "force", false, "destroy the copy")
	return c
}

// parseVolume parses GROUP/NAME.
func parseVolume(text string) (config.Volume, error) {
	group, name, ok := strings.Cut(text, "/")
	if !ok {
		return config.Volume{}, usage("write GROUP/NAME, such as shop/data", "%q is not the name of a volume", text)
	}
	for _, part := range []string{group, name} {
		if err := config.CheckName(part); err != nil {
			return config.Volume{}, usage("write GROUP/NAME, such as shop/data", "%q: %w", text, err)
		}
	}
	return config.Volume{Group: group, Name: name}, nil
}
