package config

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
)

// IO is a way to reach devices.
type IO string

const (
	IOUring IO = "uring"
	IOPlain IO = "plain"
)

// UnmarshalText accepts "uring" and "plain".
func (i *IO) UnmarshalText(text []byte) error {
	switch v := IO(text); v {
	case IOUring, IOPlain:
		*i = v
		return nil
	}
	return fmt.Errorf("%q is not a way to reach devices: write \"uring\" or \"plain\"", text)
}

// LogLevel is the least severe level that is logged: debug, info, warn or error.
type LogLevel string

// UnmarshalText accepts the four levels in lower case.
func (l *LogLevel) UnmarshalText(text []byte) error {
	switch v := string(text); v {
	case "debug", "info", "warn", "error":
		*l = LogLevel(v)
		return nil
	}
	return fmt.Errorf("%q is not a log level: write \"debug\", \"info\", \"warn\" or \"error\"", text)
}

// Slog returns the level for a slog handler; info for the zero value.
func (l LogLevel) Slog() slog.Level {
	switch l {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// Identity is what tells a volume of a secondary from all others, written as a UUID.
type Identity [16]byte

// String writes it as status does.
func (i Identity) String() string { return uuid.UUID(i).String() }

// UnmarshalText accepts a UUID as status writes it.
func (i *Identity) UnmarshalText(text []byte) error {
	u, err := uuid.ParseBytes(text)
	if err != nil || len(text) != 36 || u == uuid.Nil {
		return fmt.Errorf("%q is not the identity of a volume: copy it from the status of the secondary", text)
	}
	*i = Identity(u)
	return nil
}

// Duration is a time.Duration written as "200ms", "1.5s" or "1m30s"; never negative.
type Duration time.Duration

// UnmarshalText parses a duration; a number without a unit is refused.
func (d *Duration) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a duration: write a number and a unit, such as \"200ms\", \"1.5s\" or \"1m30s\"", text)
	}
	if v < 0 {
		return fmt.Errorf("%q is negative: a duration must be 0 or more", text)
	}
	*d = Duration(v)
	return nil
}

// Std returns the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }
