package collectors

import (
	"time"

	"github.com/rs/zerolog"
)

// reminderInterval is how often a fault that lasts is logged again.
const reminderInterval = time.Minute

// streak logs a condition when it turns bad, once a minute while it stays bad,
// and when it is well again, however often it is observed. The zero value is well.
type streak struct {
	since  time.Time // zero while all is well
	logged time.Time
	faults int
}

// observe takes the newest outcome; bad and well are the log messages.
func (s *streak) observe(log zerolog.Logger, err error, bad, well string) {
	now := time.Now()
	switch {
	case err == nil && s.since.IsZero():
	case err == nil:
		log.Info().Dur("lasted_ms", now.Sub(s.since)).Int("faults", s.faults).Msg(well)
		*s = streak{}
	case s.since.IsZero():
		s.since, s.logged, s.faults = now, now, 1
		log.Error().Err(err).Msg(bad)
	default:
		s.faults++
		if now.Sub(s.logged) >= reminderInterval {
			s.logged = now
			log.Error().Err(err).Dur("lasted_ms", now.Sub(s.since)).Int("faults", s.faults).Msg(bad)
		}
	}
}

// change logs a condition when it turns bad, whenever it is bad in another way,
// and when it is well again: for faults that somebody has to mend, and that
// would only fill the log meanwhile. The zero value is well.
type change struct{ text string }

// observe takes the newest outcome; bad and well are the log messages.
func (c *change) observe(log zerolog.Logger, err error, bad, well string) {
	switch {
	case err == nil && c.text != "":
		c.text = ""
		log.Info().Msg(well)
	case err != nil && err.Error() != c.text:
		c.text = err.Error()
		log.Error().Err(err).Msg(bad)
	}
}
