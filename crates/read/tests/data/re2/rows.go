package main

import (
	"fmt"
	"math/rand"
	"os"
	gosyntax "regexp/syntax"
	"strings"
	"unicode"

	"github.com/grafana/regexp"
	"github.com/grafana/regexp/syntax"
)

// What every pattern is tried on.
var pool = []string{
	"", "a", "b", "z", "A", "Z", "ab", "ba", "aa", "aaa", "abc", "aab", "abab", "a\nb", "\n", "a\n", "\na", "a b", " ", "_",
	"0", "7", "42", "-", "--", "&", "&&", "~", "~~", "<", ">", "[", "]", "{", "}", "z{1", "z{,2}", "{,2}", "a-b", "a.b",
	"\\", "^", "$", ".", "*", "+", "(", ")", "|", "eu-west-1", "EU", "K", "k", "\u212a", "s", "\u017f", "ü", "Ü", "σ", "ς",
	"ß", "漢", "😀", "\u0663", "é", "e\u0301", "\u00a0", "\x00", "\x7f", "\ufffd",
}

// compiled does what Prometheus does with a pattern: it reads it alone, and then puts anchors around it. The library reads the
// result with Go's own parser.
func compiled(pattern string) (*regexp.Regexp, *syntax.Regexp, error) {
	tree, err := syntax.Parse(pattern, syntax.Perl|syntax.DotNL)
	if err != nil {
		return nil, nil, err
	}
	re, err := regexp.Compile("^(?s:" + tree.String() + ")$")
	if bad, ok := err.(*gosyntax.Error); ok {
		// The text with the anchors is not the user's.
		bad.Expr = pattern
	}
	return re, tree, err
}

// escaped writes a text without tabs and ends of lines.
func escaped(text string) string {
	var out strings.Builder
	for _, c := range text {
		switch {
		case c == '\\':
			out.WriteString(`\\`)
		case c < ' ' || c == 0x7f || c > 0x7e && !unicode.IsPrint(c) || unicode.Is(unicode.M, c):
			fmt.Fprintf(&out, `\u{%x}`, c)
		default:
			out.WriteRune(c)
		}
	}
	return out.String()
}

func bits(re *regexp.Regexp, texts []string) string {
	var out strings.Builder
	for i := 0; i < len(texts); i += 4 {
		digit := 0
		for j := i; j < min(i+4, len(texts)); j++ {
			if re.MatchString(texts[j]) {
				digit |= 1 << (j - i)
			}
		}
		fmt.Fprintf(&out, "%x", digit)
	}
	return out.String()
}

func printRows() {
	dice := rand.New(rand.NewSource(11))
	fmt.Println("# Made by main.go beside this file; README.txt says how, and what a line means.")
	line := "pool"
	for _, text := range pool {
		line += "\t" + escaped(text)
	}
	fmt.Println(line)
	seen := map[string]bool{}
	nRows, nErrors, nBytes := 0, 0, 0
	row := func(pattern string, isRandom bool) {
		if seen[pattern] {
			return
		}
		seen[pattern] = true
		re, tree, err := compiled(pattern)
		if err != nil {
			text := err.Error()
			// Random errors are alike.
			if isRandom && nErrors > 1400 {
				return
			}
			nErrors++
			fmt.Printf("%s\t!%s\n", escaped(pattern), escaped(text))
			return
		}
		texts := samples(dice, tree)
		if isRandom && !strings.Contains(bits(re, texts)+bits(re, pool), "1") && dice.Intn(4) > 0 {
			return
		}
		line := fmt.Sprintf("%s\t%s\t%s", escaped(pattern), bits(re, pool), bits(re, texts))
		for _, text := range texts {
			line += "\t" + escaped(text)
		}
		fmt.Println(line)
		nRows++
		nBytes += len(line)
	}
	for _, pattern := range handwritten() {
		row(pattern, false)
	}
	for nRows < 6300 && nBytes < 480_000 {
		grammar := &grammar{dice: dice, left: 1 + dice.Intn(14)}
		row(grammar.alternation(0), true)
	}
	fmt.Fprintln(os.Stderr, nRows, "rows,", nErrors, "errors,", nBytes, "bytes")
}
