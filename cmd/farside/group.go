package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/manager"
	"github.com/farside-storage/farside/wire"
)

// groupInfo is a group of a manager. What is not known is null.
type groupInfo struct {
	Group         string  `json:"group"`
	State         string  `json:"state"`
	Paused        bool    `json:"paused"`
	Waiting       string  `json:"waiting"` // what for, "" if not for anything
	RecoveryPoint *uint64 `json:"recovery_point"`
	// FirstCopy is how far the first copy is of a group that never had a recovery point.
	FirstCopy *manager.FirstCopy `json:"first_copy,omitempty"`
	RPOMillis *float64           `json:"rpo_ms"`
	Settings  manager.Settings   `json:"settings"`
	// Members are the controls, as the decision log or else the configuration has them.
	Members manager.MembersStatus `json:"members"`
	Alerts  []string              `json:"alerts"`
}

func groupInfoOf(s manager.Status) groupInfo {
	return groupInfo{Group: s.Group, State: s.State.String(), Paused: s.Paused, Waiting: s.Waiting, RecoveryPoint: s.RecoveryPoint,
		FirstCopy: s.FirstCopy, RPOMillis: s.RPOMillis, Settings: s.Settings, Members: s.Members, Alerts: append([]string{}, s.Alerts...)}
}

type groupList struct {
	Manager string      `json:"manager"`
	Groups  []groupInfo `json:"groups"`
}

func (l groupList) writeText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GROUP\tSTATE\tRECOVERY POINT\tRPO\tINTERVAL\tCOORDINATION TIMEOUT\tDRAIN TIMEOUT\tRPO ALERT\tALERTS")
	for _, g := range l.Groups {
		point, rpo := "unknown", "unknown"
		switch {
		case g.RecoveryPoint != nil:
			point = fmt.Sprint(*g.RecoveryPoint)
		case g.FirstCopy != nil:
			point = g.FirstCopy.String()
		}
		if g.RPOMillis != nil {
			rpo = time.Duration(*g.RPOMillis * float64(time.Millisecond)).Round(time.Millisecond).String()
		}
		s := g.Settings
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%v\t%v\t%v\t%v\t%d\n", printable(g.Group), g.stateText(), point, rpo,
			s.Interval, s.CoordinationTimeout, s.DrainTimeout, s.RPOAlert, len(g.Alerts))
	}
	return t.Flush()
}

func (g groupInfo) stateText() string {
	if g.Paused {
		return g.State + ", paused"
	}
	return g.State
}

// groupChanged is what pause, resume and set print: the group as it is after the change.
type groupChanged struct {
	Manager string    `json:"manager"`
	Action  string    `json:"action"`
	Group   groupInfo `json:"group"`
}

func (c groupChanged) writeText(w io.Writer) error {
	done := map[string]string{"pause": "paused: no CG is formed once the one in progress is final", "resume": "resumed", "set": "set"}
	if c.Action == wire.GroupAdd.String() || c.Action == wire.GroupRemove.String() {
		return c.writeMembers(w)
	}
	s := c.Group.Settings
	_, err := fmt.Fprintf(w, "group %s %s\n  interval %v, coordination timeout %v, drain timeout %v, command timeout %v, RPO alert %v\n",
		printable(c.Group.Group), done[c.Action], s.Interval, s.CoordinationTimeout, s.DrainTimeout, s.CommandTimeout, s.RPOAlert)
	return err
}

// writeMembers prints the controls of the group, and what is still to happen.
func (c groupChanged) writeMembers(w io.Writer) error {
	m := c.Group.Members
	_, err := fmt.Fprintf(w, "group %s, members of version %d\n  primaries: %s\n  secondaries: %s\n", printable(c.Group.Group), m.Version,
		printable(strings.Join(m.Primaries, ", ")), printable(strings.Join(m.Secondaries, ", ")))
	for _, text := range m.Waiting {
		if err == nil {
			_, err = fmt.Fprintf(w, "  %s\n", printable(text))
		}
	}
	if err == nil && m.Drift != "" {
		_, err = fmt.Fprintf(w, "  the configuration file differs, bring it up to date: %s\n", printable(m.Drift))
	}
	return err
}

// managerFlags say which manager is asked.
type managerFlags struct {
	manager string
	timeout time.Duration
}

func (m *managerFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&m.manager, "manager", "", "address of the manager (default: that of --config)")
	flags.DurationVar(&m.timeout, "timeout", 15*time.Second, "how long to wait for the manager")
}

func (m *managerFlags) address(a *app) (config.Address, error) {
	if m.manager != "" {
		at, err := config.ParseAddress(m.manager)
		if err != nil {
			return at, usage("", "--manager: %w", err)
		}
		return at, nil
	}
	if a.configPath == "" {
		return config.Address{}, usage("name its address with --manager, or its file with --config", "which manager is not said")
	}
	node, err := config.Load(a.configPath, config.RoleManager, nil)
	if err != nil {
		return config.Address{}, configError(err)
	}
	return node.Node.Listen, nil
}

// change asks the manager for a change, or for its state if change is nil.
func (m *managerFlags) change(c *cobra.Command, a *app, change *wire.GroupChange) (s manager.NodeStatus, err error) {
	at, err := m.address(a)
	if err != nil {
		return s, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), m.timeout)
	defer cancel()
	if s, err = a.group(ctx, at, change); err == nil || c.Context().Err() != nil {
		return s, err
	}
	var told *wire.RemoteError
	if errors.As(err, &told) && (told.Message.Code == wire.CodeUnknown || told.Message.Code == wire.CodeState) {
		return s, &failure{code: exitUsage, err: fmt.Errorf("the manager at %s: %s", at, printable(told.Message.Text)), next: "\"farside group list\" shows the groups and their settings"}
	}
	if told != nil && told.Message.Code == wire.CodeIO {
		return s, &failure{code: exitFailed, err: fmt.Errorf("the manager at %s: %s", at, printable(told.Message.Text)),
			next: "\"farside status\" tells how the manager and its decision log are, \"farside group list\" whether the change took effect"}
	}
	return s, unreachable("check that a manager runs and listens at this address", fmt.Errorf("%s: %w", at, err))
}

func (a *app) groupCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "group",
		Short: "List, pause, resume, tune and extend the groups of a running manager",
		Long: `List, pause, resume, tune and extend the groups of a running manager.

When the command ends, the change is durable in the manager's decision log. It survives pauses and restarts, and has
priority over the manager's configuration file.`,
	}, a.groupListCommand(),
		a.groupActionCommand(wire.GroupPause, "", "Form no consistency group once the one in progress is final", nil),
		a.groupActionCommand(wire.GroupResume, "", "Form consistency groups again", nil),
		a.groupSetCommand(), a.groupAddCommand(), a.groupRemoveCommand(),
		a.groupAddVolumeCommand(), a.groupRemoveVolumeCommand())
}

func (a *app) groupListCommand() *cobra.Command {
	var at managerFlags
	c := &cobra.Command{Use: "list", Short: "List the groups of a manager", Args: args(cobra.NoArgs),
		Example: "  farside group list --manager 127.0.0.1:7402\n  farside group list --config m1.toml --output json"}
	at.register(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := at.change(c, a, nil)
		if err != nil {
			return err
		}
		list := groupList{Manager: s.Node, Groups: []groupInfo{}}
		for _, g := range s.Groups {
			list.Groups = append(list.Groups, groupInfoOf(g))
		}
		return a.print(list)
	}
	return c
}

// groupActionCommand is a command that changes one group; more names further arguments, and document, if not nil,
// gives what goes with the change.
func (a *app) groupActionCommand(action wire.GroupAction, more, short string, document func(*pflag.FlagSet, []string) ([]byte, error)) *cobra.Command {
	var at managerFlags
	c := &cobra.Command{Use: action.String() + " GROUP" + more, Short: short, Args: args(cobra.ExactArgs(1 + strings.Count(more, " ")))}
	at.register(c.Flags())
	c.RunE = func(c *cobra.Command, given []string) error {
		if err := config.CheckName(given[0]); err != nil {
			return usage("", "%q: %w", given[0], err)
		}
		change := &wire.GroupChange{Group: given[0], Action: action}
		if document != nil {
			var err error
			if change.JSON, err = document(c.Flags(), given[1:]); err != nil {
				return err
			}
		}
		s, err := at.change(c, a, change)
		if err != nil {
			return err
		}
		for _, g := range s.Groups {
			if g.Group == change.Group {
				return a.print(groupChanged{Manager: s.Node, Action: action.String(), Group: groupInfoOf(g)})
			}
		}
		return fmt.Errorf("the manager carried it out, but its status has no group %s", change.Group)
	}
	return c
}

// tunables are the flags of "group set"; each is the setting of that name with "_" for "-".
var tunables = []struct{ flag, help string }{
	{"interval", "from one cut to the next; 0s is continuous"},
	{"coordination-timeout", "how long host writes may wait for a cut"},
	{"drain-timeout", "how long a CG may take from its cut until it is complete everywhere"},
	{"command-timeout", "how long to wait for a control's answer"},
	{"rpo-alert", "warn when the newest recovery point is older; 0s never warns"},
}

func (a *app) groupSetCommand() *cobra.Command {
	c := a.groupActionCommand(wire.GroupSet, "", "Change tunables of a group while it runs", func(flags *pflag.FlagSet, _ []string) ([]byte, error) {
		given := map[string]string{}
		for _, t := range tunables {
			if flags.Changed(t.flag) {
				d, err := flags.GetDuration(t.flag)
				if err != nil {
					return nil, err
				}
				given[strings.ReplaceAll(t.flag, "-", "_")] = d.String()
			}
		}
		if len(given) == 0 {
			return nil, usage("name it, for example --interval 500ms", "no tunable to change is given")
		}
		return json.Marshal(given)
	})
	c.Long = "Change tunables of a group while it runs. Those that are not given stay as they are."
	c.Example = "  farside group set shop --interval 500ms --manager 127.0.0.1:7402"
	for _, t := range tunables {
		c.Flags().Duration(t.flag, 0, t.help+" (unchanged if not given)")
	}
	return c
}

func (a *app) groupAddCommand() *cobra.Command {
	c := a.groupActionCommand(wire.GroupAdd, " ADDRESS", "Add a control to a group while it runs", func(flags *pflag.FlagSet, given []string) ([]byte, error) {
		role, err := flags.GetString("role")
		if err != nil {
			return nil, err
		}
		if role != wire.RolePrimary.String() && role != wire.RoleSecondary.String() {
			return nil, usage("give --role primary or --role secondary", "the role of the control is %q", role)
		}
		return controlDocument(given[0], role)
	})
	c.Flags().String("role", "", "what the control is: primary or secondary")
	c.Long = `Add a control to a group while it runs.

The control takes part from a new consistency group on, once it is connected. Until then the group goes on without it.
Until that one is final, the recovery point from before stays. The first copies of its volumes are spread over further
ones; each is served once it is whole.

From then on the decision log has priority over the manager's configuration file: write the change there as well. To
add a volume of controls that are members already, use "farside group add-volume".`
	c.Example = "  farside group add-control shop 127.0.0.1:7410 --role secondary --manager 127.0.0.1:7402"
	return c
}

func (a *app) groupRemoveCommand() *cobra.Command {
	c := a.groupActionCommand(wire.GroupRemove, " ADDRESS", "Remove a control from a group while it runs", func(_ *pflag.FlagSet, given []string) ([]byte, error) {
		return controlDocument(given[0], "")
	})
	c.Long = `Remove a control from a group while it runs.

The removal takes effect between two consistency groups, or at once if the group waits for a control that is gone. A
removed secondary keeps its copies, as of the last recovery point with it.

Also remove what the control had in common with those that stay. If it was a secondary, take its copies out of the
primaries' configuration. If it was a primary, delete its volumes on the secondaries. Otherwise the group waits for
them, and its status says so.`
	c.Example = "  farside group remove-control shop 127.0.0.1:7410 --manager 127.0.0.1:7402"
	return c
}

// controlDocument names a control as managers know it.
func controlDocument(address, role string) ([]byte, error) {
	at, err := config.ParseAddress(address)
	if err != nil {
		return nil, usage("", "%q: %w", address, err)
	}
	return json.Marshal(wire.GroupControl{Control: at.String(), Role: role})
}

// wireGroup asks a manager over the replication protocol to change a group; with nil, only for its state.
func wireGroup(ctx context.Context, at config.Address, change *wire.GroupChange) (s manager.NodeStatus, err error) {
	var m wire.Message = &wire.Status{}
	if change != nil {
		m = change
	}
	document, role, err := wireAsk(ctx, at, m)
	if err != nil {
		return s, err
	}
	if role != wire.RoleManager {
		return s, fmt.Errorf("at this address is a %v, not a manager", role)
	}
	if err := json.Unmarshal(document, &s); err != nil {
		return s, fmt.Errorf("the manager's answer: %w", err)
	}
	return s, nil
}

// patience waits for a silent node as long as the command waits: a node on a busy machine may be silent for a while.
func patience(ctx context.Context) wire.Options {
	deadline, ok := ctx.Deadline()
	if !ok {
		return wire.Options{}
	}
	left := max(time.Until(deadline), time.Second)
	return wire.Options{IdleTimeout: left, WriteTimeout: left}
}

// wireAsk sends one message as a tool, and returns the document that answers it and who did.
func wireAsk(ctx context.Context, at config.Address, m wire.Message) (document []byte, role wire.Role, err error) {
	conn, err := wire.Dial(ctx, at.String(), patience(ctx))
	if err != nil {
		return nil, 0, err
	}
	// Reading ends when the connection is closed: the deadline closes it.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close() // the answer is here, or an error that tells more
		} else if err != nil {
			err = fmt.Errorf("no answer in time: %w", errors.Join(ctx.Err(), err))
		}
	}()
	peer, err := conn.Handshake(wire.Hello{Role: wire.RoleTool, Node: "farside", Instance: wire.UUID(uuid.New())})
	if err != nil {
		return nil, 0, err
	}
	if !wire.Allowed(m.Type(), wire.RoleTool, peer.Role) {
		return nil, peer.Role, fmt.Errorf("at this address is a %v, which does not take %v", peer.Role, m.Type())
	}
	if err := conn.WriteMessage(m); err != nil {
		return nil, peer.Role, err
	}
	header, body, err := conn.Next()
	if err != nil {
		return nil, peer.Role, err
	}
	message, err := wire.Decode(header.Type, body)
	if err != nil {
		return nil, peer.Role, err
	}
	reply, ok := message.(*wire.StatusReply)
	if !ok {
		return nil, peer.Role, fmt.Errorf("the node answered with %v instead of its status", header.Type)
	}
	return reply.JSON, peer.Role, nil
}
