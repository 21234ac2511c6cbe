package status

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/term"
)

// Terminal is where --watch draws.
type Terminal struct {
	In, Out *os.File
	Colour  bool
}

// Watch draws a reading every so often, until q, Esc or Ctrl-C is pressed or the
// context ends.
func Watch(ctx context.Context, reading func(context.Context) (Report, error), t Terminal, every time.Duration) error {
	if !term.IsTerminal(int(t.In.Fd())) || !term.IsTerminal(int(t.Out.Fd())) {
		return errors.New("there is no terminal to draw on")
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel() // a reading or a tick that is under way ends too
	p := tea.NewProgram(
		program{running, reading, screen{colour: t.Colour, every: every, width: 80, height: 24}},
		tea.WithInput(t.In), tea.WithOutput(t.Out), tea.WithoutSignalHandler(),
	)
	defer context.AfterFunc(ctx, p.Quit)()
	if _, err := p.Run(); err != nil {
		return fmt.Errorf("draw: %w", err)
	}
	return nil
}

// program is a screen as the library wants it.
type program struct {
	ctx     context.Context
	reading func(context.Context) (Report, error)
	screen  screen
}

// Init asks for the first tick at once.
func (p program) Init() tea.Cmd { return func() tea.Msg { return tickEvent(time.Now()) } }

// Update takes what the terminal, the clock or a reading brings.
func (p program) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	var event any = message
	switch m := message.(type) {
	case tea.WindowSizeMsg:
		event = resizeEvent{m.Width, m.Height}
	case tea.KeyPressMsg:
		event = keyEvent(m.String())
	}
	var next action
	p.screen, next = p.screen.update(event)
	var commands []tea.Cmd
	if _, ticked := event.(tickEvent); ticked {
		commands = append(commands, p.tick)
	}
	switch next {
	case read:
		commands = append(commands, func() tea.Msg {
			report, err := p.reading(p.ctx)
			return readingEvent{report, err, time.Now()}
		})
	case quit:
		commands = append(commands, tea.Quit)
	}
	return p, tea.Batch(commands...)
}

// tick is a second from now. The library's own would outlive the program.
func (p program) tick() tea.Msg {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case now := <-timer.C:
		return tickEvent(now)
	case <-p.ctx.Done():
		return nil
	}
}

// View draws on the terminal's second screen, so that what stood there comes back.
func (p program) View() tea.View {
	view := tea.NewView(strings.Join(p.screen.view(), "\n"))
	view.AltScreen = true
	return view
}
