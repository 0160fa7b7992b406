package report

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"macvlan-vip/systemd/internal/facts"
)

// JSON prints a value, on lines of its own.
func JSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// Table prints services as text.
func Table(out io.Writer, services []Service) error {
	if len(services) == 0 {
		_, err := fmt.Fprintln(out, "no service is in a namespace; see `systemd-netns enable --help`")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tSTATE\tNAMESPACE\tNETWORK\tVIPS")
	for _, s := range services {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", s.Service, s.State, s.Namespace, dash(s.Network), dash(facts.List(s.VIPs)))
	}
	return table.Flush()
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// Text prints a status.
func (s *Status) Text(out io.Writer) {
	fmt.Fprintf(out, "%s is %s, namespace %s\n", s.Service.Service, s.State, s.Namespace)
	if len(s.lines) == 0 {
		fmt.Fprintln(out, "  not added to a network")
	}
	for _, line := range s.lines {
		fmt.Fprintln(out, "  "+line)
	}
	for i, line := range s.Drift {
		if i == 0 {
			line = "drift: " + line
		}
		fmt.Fprintln(out, "  "+line)
	}
}
