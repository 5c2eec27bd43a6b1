package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
)

// formatRequest says what pool to make. Sizes in bytes; 0 is the engine's default.
type formatRequest struct {
	poolRequest
	Name                 string
	Extent, Journal, Map config.Size
}

// poolInfo describes a pool.
type poolInfo struct {
	Pool    string   `json:"pool"` // UUID
	Name    string   `json:"name"`
	Devices []string `json:"devices"`
	// Bytes of all devices, and of these for data.
	Bytes     uint64 `json:"bytes"`
	DataBytes uint64 `json:"data_bytes"`
}

func (p poolInfo) writeText(w io.Writer) error {
	_, err := fmt.Fprintf(w, "pool %s (%s): %d devices, %s, of which %s for data\n",
		p.Name, p.Pool, len(p.Devices), config.Size(p.Bytes), config.Size(p.DataBytes))
	return err
}

func (a *app) formatCommand() *cobra.Command {
	var flags poolFlags
	var name, extent, journal, virtual, create string
	var force bool
	c := &cobra.Command{
		Use:   "format",
		Short: "Make a new pool on raw devices",
		Long: `Make a new, empty pool on block devices or files.

A device that holds a filesystem, a partition table or another pool is refused, and what was found is named; --force
overwrites it. A device in use is always refused.`,
		Example: `  farside format --device /dev/nvme1n1 --device /dev/nvme2n1 --pool b1
  farside format --device pool.img --create 4GiB`,
		Args: args(cobra.NoArgs),
	}
	f := c.Flags()
	flags.register(f)
	f.StringVar(&name, "pool", "farside", "name of the pool, for people")
	f.StringVar(&extent, "extent", "0", "bytes that a writer reserves at once (0: 4MiB)")
	f.StringVar(&journal, "journal", "0", "bytes of the journal (0: 2 % of the pool, 2MiB to 16GiB)")
	f.StringVar(&virtual, "virtual", "0", "virtual bytes that the pointer tables can describe (0: four times the pool)")
	f.StringVar(&create, "create", "", "make files of this size where a path does not exist")
	f.BoolVar(&force, "force", false, "destroy what the devices hold")
	c.RunE = func(c *cobra.Command, _ []string) error {
		pool, err := flags.request(a, f)
		if err != nil {
			return err
		}
		r := formatRequest{poolRequest: pool, Name: name}
		if err := config.CheckName(name); err != nil {
			return usage("", "--pool: %w", err)
		}
		var size config.Size
		if err := parseSizes(map[string]string{"extent": extent, "journal": journal, "virtual": virtual, "create": create},
			map[string]*config.Size{"extent": &r.Extent, "journal": &r.Journal, "virtual": &r.Map, "create": &size}); err != nil {
			return err
		}
		if create != "" {
			if err := createFiles(r.Devices, size); err != nil {
				return err
			}
		}
		if err := mayOverwrite(r.Devices, force); err != nil {
			return err
		}
		p := a.newProgress()
		info, err := a.format(c.Context(), r, p.update)
		p.close()
		if err != nil {
			return err
		}
		return a.print(info)
	}
	return c
}

// parseSizes parses the sizes of flags by their names; "" is left alone.
func parseSizes(texts map[string]string, to map[string]*config.Size) error {
	for name, text := range texts {
		if text == "" {
			continue
		}
		if err := to[name].UnmarshalText([]byte(text)); err != nil {
			return usage("", "--%s: %w", name, err)
		}
	}
	return nil
}
