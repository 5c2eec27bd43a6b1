package primary

import "fmt"

// ledBy notes which manager sent a command, unless it is stale.
func (c *Core) ledBy(group string, epoch uint64, manager string) {
	if g := c.byName[group]; g != nil && epoch >= g.epoch {
		g.leader = manager
	}
}

// whoLeads says to a manager with a lower epoch whom it lost the group to.
func (g *group) whoLeads() string {
	if g.leader == "" {
		return "another manager has taken over"
	}
	return fmt.Sprintf("manager %q has taken over", g.leader)
}
