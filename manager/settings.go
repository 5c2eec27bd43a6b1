package manager

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Settings are the tunables of one group. They may change while the group runs and are kept in
// the decision log, so that pause and restart do not reset them.
type Settings struct {
	// Interval from cut to cut; 0 means continuous: the next cut follows as soon as the CG before is final.
	Interval time.Duration
	// CoordinationTimeout bounds how long host writes wait for a cut (see "Times" in the package comment).
	CoordinationTimeout time.Duration
	// DrainTimeout bounds the time from the cut until every secondary is complete. Not applied to a first
	// copy, nor after five CGs in a row failed, until one succeeds.
	DrainTimeout time.Duration
	// CommandTimeout bounds the wait for the answers to THAW and LINK, and to OPEN and QUERY.
	CommandTimeout time.Duration
	// RPOAlert raises an alert while the RPO is above it; 0 means never.
	RPOAlert time.Duration
}

// DefaultSettings returns the settings of a group that was given none.
func DefaultSettings() Settings {
	return Settings{
		Interval:            time.Second,
		CoordinationTimeout: 50 * time.Millisecond,
		DrainTimeout:        30 * time.Second,
		CommandTimeout:      5 * time.Second,
		RPOAlert:            30 * time.Second,
	}
}

// Validate says which setting is out of its range, and what the range is.
func (s Settings) Validate() error {
	checks := []struct {
		name          string
		v, least, top time.Duration
	}{
		{"interval", s.Interval, 0, 24 * time.Hour},
		{"coordination_timeout", s.CoordinationTimeout, time.Millisecond, 10 * time.Second},
		{"drain_timeout", s.DrainTimeout, 100 * time.Millisecond, 24 * time.Hour},
		{"command_timeout", s.CommandTimeout, 100 * time.Millisecond, time.Hour},
		{"rpo_alert", s.RPOAlert, 0, 365 * 24 * time.Hour},
	}
	for _, c := range checks {
		if c.v < c.least || c.v > c.top {
			return fmt.Errorf("manager: setting %s is %v: use a value from %v to %v", c.name, c.v, c.least, c.top)
		}
	}
	return nil
}

// settingsJSON is Settings as people and the log write it: "50ms".
type settingsJSON struct {
	Interval            string `json:"interval"`
	CoordinationTimeout string `json:"coordination_timeout"`
	DrainTimeout        string `json:"drain_timeout"`
	CommandTimeout      string `json:"command_timeout"`
	RPOAlert            string `json:"rpo_alert"`
}

// MarshalJSON writes durations as strings such as "50ms".
func (s Settings) MarshalJSON() ([]byte, error) {
	return json.Marshal(settingsJSON{
		s.Interval.String(), s.CoordinationTimeout.String(), s.DrainTimeout.String(),
		s.CommandTimeout.String(), s.RPOAlert.String(),
	})
}

// UnmarshalJSON reads what MarshalJSON wrote; a missing key is an error, never a silent default.
func (s *Settings) UnmarshalJSON(b []byte) error {
	given, err := settingsObject(b)
	if err != nil {
		return err
	}
	for _, f := range s.byName() {
		text, ok := given[f.name]
		if !ok {
			return fmt.Errorf("manager: settings: %s is missing", f.name)
		}
		if err := f.parse(text); err != nil {
			return err
		}
	}
	return nil
}

// With returns the settings with those changed that a JSON object names, written as MarshalJSON does. The others stay
// as they are. A name that is not known and a value out of range are errors, and change nothing.
func (s Settings) With(object []byte) (Settings, error) {
	given, err := settingsObject(object)
	if err != nil {
		return Settings{}, err
	}
	next := s
	var known []string
	for _, f := range next.byName() {
		known = append(known, f.name)
		if text, ok := given[f.name]; ok {
			if err := f.parse(text); err != nil {
				return Settings{}, err
			}
			delete(given, f.name)
		}
	}
	if len(given) > 0 {
		return Settings{}, fmt.Errorf("manager: no setting is called %q; known are %q", slices.Sorted(maps.Keys(given))[0], known)
	}
	return next, next.Validate()
}

// settingsObject reads a JSON object whose values are strings.
func settingsObject(b []byte) (map[string]string, error) {
	var given map[string]*string
	if err := json.Unmarshal(b, &given); err != nil {
		return nil, fmt.Errorf("manager: settings: %w", err)
	}
	out := map[string]string{}
	for name, text := range given {
		if text == nil {
			return nil, fmt.Errorf("manager: settings: %q is null: write a duration such as \"50ms\"", name)
		}
		out[name] = *text
	}
	return out, nil
}

// namedSetting is one field of Settings under its name in JSON.
type namedSetting struct {
	name string
	to   *time.Duration
}

func (s *Settings) byName() []namedSetting {
	return []namedSetting{
		{"interval", &s.Interval}, {"coordination_timeout", &s.CoordinationTimeout}, {"drain_timeout", &s.DrainTimeout},
		{"command_timeout", &s.CommandTimeout}, {"rpo_alert", &s.RPOAlert},
	}
}

func (f namedSetting) parse(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("manager: settings: %s: %w", f.name, err)
	}
	*f.to = d
	return nil
}
