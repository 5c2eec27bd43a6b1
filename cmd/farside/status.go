package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/farside-storage/farside/internal/config"
	"github.com/farside-storage/farside/wire"
)

// nodeStatus is the answer of one node, or why there is none.
type nodeStatus struct {
	Address   string          `json:"address"`
	Reachable bool            `json:"reachable"`
	Error     string          `json:"error,omitempty"`
	Status    json.RawMessage `json:"status"` // null: not known
}

type statusReport struct {
	Nodes []nodeStatus `json:"nodes"`
}

func (r statusReport) writeText(w io.Writer) error {
	for _, n := range r.Nodes {
		if !n.Reachable {
			if _, err := fmt.Fprintf(w, "node at %s\n  unknown: %s\n", n.Address, printable(n.Error)); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintf(w, "node at %s\n", n.Address); err != nil {
			return err
		}
		if err := writeTree(w, n.Status, "  "); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) statusCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "status [ADDRESS...]",
		Short: "Ask nodes for their state",
		Long: `Ask nodes for their state. ADDRESS is where a node listens, HOST:PORT or unix:/PATH; without one the node of
--config is asked.

What is not known is shown as unknown. The exit status is 4 if a node did not answer.`,
		Example: "  farside status 127.0.0.1:7402\n  farside status --config m1.toml --output json",
	}
	c.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "how long to wait for each node")
	c.RunE = func(c *cobra.Command, given []string) error {
		addresses, err := a.statusAddresses(given)
		if err != nil {
			return err
		}
		report := statusReport{Nodes: make([]nodeStatus, len(addresses))}
		var asking sync.WaitGroup
		for i, at := range addresses {
			asking.Go(func() { report.Nodes[i] = a.ask(c.Context(), at, timeout) })
		}
		asking.Wait()
		if err := a.print(report); err != nil {
			return err
		}
		return report.failed()
	}
	return c
}

func (a *app) statusAddresses(given []string) ([]config.Address, error) {
	var addresses []config.Address
	for _, text := range given {
		at, err := config.ParseAddress(text)
		if err != nil {
			return nil, usage("", "%w", err)
		}
		addresses = append(addresses, at)
	}
	if len(addresses) > 0 {
		return addresses, nil
	}
	if a.configPath == "" {
		return nil, usage("name its address, or its file with --config", "which node is not said")
	}
	node, err := config.Load(a.configPath, "", nil)
	if err != nil {
		return nil, configError(err)
	}
	return []config.Address{node.Node.Listen}, nil
}

func (a *app) ask(ctx context.Context, at config.Address, timeout time.Duration) nodeStatus {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	document, err := a.status(ctx, at)
	if err == nil && !json.Valid(document) {
		err = errors.New("the node's answer is not JSON")
	}
	if err != nil {
		return nodeStatus{Address: at.String(), Error: err.Error()}
	}
	return nodeStatus{Address: at.String(), Reachable: true, Status: bytes.TrimSpace(document)}
}

// failed names the nodes that did not answer.
func (r statusReport) failed() error {
	var errs []error
	for _, n := range r.Nodes {
		if !n.Reachable {
			errs = append(errs, fmt.Errorf("%s: %s", n.Address, n.Error))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return unreachable("check that the node runs and listens at this address", errors.Join(errs...))
}

// wireTell sends a message to a node and gives the document that answers it.
func wireTell(ctx context.Context, at config.Address, m wire.Message) ([]byte, error) {
	document, _, err := wireAsk(ctx, at, m)
	return document, err
}

// wireStatus asks a node over the replication protocol.
func wireStatus(ctx context.Context, at config.Address) ([]byte, error) {
	document, _, err := wireAsk(ctx, at, &wire.Status{})
	return document, err
}
