package attach

import (
	"errors"
	"os"
	"time"

	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/turns"
)

const (
	turnFile = "/run/systemd-netns.turns"
	// turnName is the turn's name among the files that systemd keeps for the unit.
	turnName = "turn"
	// turnTime is how long a start may take from its turn on, as without a wait.
	turnTime = 10 * time.Minute
)

// turn is one that this process has, or none.
type turn struct{ file *os.File }

// waitForTurn waits until few other namespaces of the host are being made and added. systemd
// keeps the turn for start, or until the unit is dead. Who gets none goes on all the same.
func (n *Netns) waitForTurn() {
	if !sdlog.Supervised() {
		return
	}
	f, err := turns.Take(turnFile, func() {
		n.Note("waiting for other namespaces")
		n.Extend(turnTime)
	})
	if err == nil {
		err = errors.Join(n.Store(turnName, f), f.Close())
	}
	if err != nil {
		n.Say(sdlog.LevelWarning, "%v", err)
	}
}

// endTurn lets somebody else begin.
func (n *Netns) endTurn() {
	if n.turn == nil || n.turn.file == nil {
		return
	}
	if err := errors.Join(turns.End(n.turn.file), n.Drop(turnName)); err != nil {
		n.Say(sdlog.LevelWarning, "%v", err)
	}
	n.turn.file = nil
}
