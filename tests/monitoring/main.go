// Reads a file of Prometheus rules as promtool does, and prints the series that its expressions ask for, with the labels that they name.
package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	language := parser.NewParser(parser.Options{})
	groups, faults := rulefmt.ParseFile(os.Args[1], false, model.UTF8Validation, language, slog.Default())
	for _, fault := range faults {
		fmt.Fprintln(os.Stderr, fault)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			expression, err := language.ParseExpr(rule.Expr)
			if err != nil {
				panic(err) // it was parsed above
			}
			parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
				if series, ok := node.(*parser.VectorSelector); ok {
					fmt.Print(series.Name)
					for _, matcher := range series.LabelMatchers {
						if matcher.Name != "__name__" {
							fmt.Printf(" %s", matcher.Name)
						}
					}
					fmt.Println()
				}
				return nil
			})
		}
	}
}
