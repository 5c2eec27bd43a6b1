package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
)

// checkRequest says what to verify.
type checkRequest struct {
	poolRequest
	// Data: read every linked block and compare its checksum, too.
	Data bool
}

// checkReport is what a check found.
type checkReport struct {
	OK bool `json:"ok"`
	// Structures and DataBlocks that were verified.
	Structures uint64        `json:"structures"`
	DataBlocks uint64        `json:"data_blocks"`
	Damage     []checkDamage `json:"damage"`
	// Volumes that the pool has, and what the copies in them are good for.
	Volumes []volumeInfo `json:"volumes"`
}

// checkDamage is one structure that does not hold.
type checkDamage struct {
	Structure string `json:"structure"`
	Device    string `json:"device"`
	Offset    int64  `json:"offset"` // bytes
	Text      string `json:"text"`
	// Redundant: another copy is good; opening the pool repairs this one.
	Redundant bool `json:"redundant"`
}

// String puts the place first, if the damage has one.
func (d checkDamage) String() string {
	effect := "lost"
	if d.Redundant {
		effect = "another copy is good"
	}
	s := fmt.Sprintf("%s: %s (%s)", d.Structure, d.Text, effect)
	if d.Device != "" {
		s = fmt.Sprintf("%s, byte %d: %s", d.Device, d.Offset, s)
	}
	return s
}

func (r checkReport) writeText(w io.Writer) error {
	for _, d := range r.Damage {
		if _, err := fmt.Fprintln(w, d); err != nil {
			return err
		}
	}
	for _, v := range r.Volumes {
		if _, err := fmt.Fprintf(w, "volume %s: %s\n", config.ExportName(v.Group, v.Name), v.copyText()); err != nil {
			return err
		}
	}
	verdict := "the pool is sound"
	if !r.OK {
		verdict = fmt.Sprintf("the pool is damaged in %d places", len(r.Damage))
	}
	_, err := fmt.Fprintf(w, "%s: %d structures and %d data blocks verified\n", verdict, r.Structures, r.DataBlocks)
	return err
}

// next says what to do about damage.
func (r checkReport) next() string {
	for _, d := range r.Damage {
		if !d.Redundant {
			return "keep the devices as they are; \"farside dump\" shows the damaged structures"
		}
	}
	return "nothing is lost: starting the secondary control repairs it from the other copies"
}

func (a *app) checkCommand() *cobra.Command {
	var flags poolFlags
	var data bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Verify every structure of a pool, offline",
		Long: `Verify every structure of a pool that no secondary control has open. Nothing is written.

With --data every block that a volume shows is read and compared with its checksum, too. The exit status is 1
if something is damaged.`,
		Args: args(cobra.NoArgs),
	}
	flags.register(c.Flags())
	c.Flags().BoolVar(&data, "data", false, "read and verify the data, too")
	c.RunE = func(c *cobra.Command, _ []string) error {
		pool, err := flags.request(a, c.Flags())
		if err != nil {
			return err
		}
		p := a.newProgress()
		report, err := a.check(c.Context(), checkRequest{poolRequest: pool, Data: data}, p.update)
		p.close()
		if err != nil {
			return err
		}
		report.Damage = append([]checkDamage{}, report.Damage...)
		if err := a.print(report); err != nil {
			return err
		}
		if !report.OK {
			return &failure{code: exitFailed, err: fmt.Errorf("the pool is damaged in %d places", len(report.Damage)), next: report.next()}
		}
		return nil
	}
	return c
}
