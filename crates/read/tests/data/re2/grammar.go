package main

import (
	"maps"
	"math/rand"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/grafana/regexp/syntax"
)

// A grammar of patterns, most of them right.
type grammar struct {
	dice *rand.Rand
	left int
}

func (g *grammar) one(options ...string) string { return options[g.dice.Intn(len(options))] }

func (g *grammar) alternation(depth int) string {
	out := g.concat(depth)
	for g.left > 0 && g.dice.Intn(4) == 0 {
		out += "|" + g.concat(depth)
	}
	return out
}

func (g *grammar) concat(depth int) string {
	out := ""
	for n := g.dice.Intn(4) + g.dice.Intn(2); n > 0 && g.left > 0; n-- {
		out += g.repeated(depth)
	}
	return out
}

func (g *grammar) repeated(depth int) string {
	g.left--
	out := g.atom(depth)
	for g.dice.Intn(3) == 0 {
		out += g.one("*", "+", "?", "*?", "+?", "??", "{2}", "{0}", "{1,2}", "{0,3}", "{2,}", "{,2}", "{1", "{2}?", "{02}", "{3,1}", "{1001}")
		if g.dice.Intn(3) > 0 {
			break
		}
	}
	return out
}

func (g *grammar) atom(depth int) string {
	if depth < 5 && g.dice.Intn(4) == 0 {
		open := g.one("(", "(?:", "(?i:", "(?s:", "(?-s:", "(?m:", "(?U:", "(?i-s:", "(?P<n>", "(?<n>", "(?i)(", "(?", "(?x:", "(?-:")
		out := open + g.alternation(depth+1)
		if g.dice.Intn(40) > 0 {
			out += ")"
		}
		return out
	}
	switch g.dice.Intn(10) {
	case 0:
		return g.one(".", "^", "$", `\b`, `\B`, `\A`, `\z`, "(?i)", "(?m)", "(?-s)", "(?-i)")
	case 1:
		return g.one(`\d`, `\D`, `\w`, `\W`, `\s`, `\S`, `\pL`, `\PL`, `\pN`, `\p{Lu}`, `\p{^Ll}`, `\P{Greek}`, `\p{Latin}`, `\p{Any}`, `\p{Nope}`)
	case 2:
		return g.one(`\n`, `\t`, `\x41`, `\x{fc}`, `\x{212A}`, `\141`, `\0`, `\1`, `\8`, `\.`, `\-`, `\_`, `\<`, `\>`, `\&`, `\Z`, `\C`, `\e`, `\Qa.b\E`, `\Q*`, `\E`)
	case 3, 4:
		return g.class()
	case 5:
		return g.one("ü", "σ", "K", "ſ", "漢", "é", "\u212a", "😀", "ß")
	default:
		return g.one("a", "b", "A", "z", "0", "-", "_", "{", "}", "]", "&", " ", "ab", "k", "s", "<", "~", "\n")
	}
}

func (g *grammar) class() string {
	out := "[" + g.one("", "", "^")
	for n := 1 + g.dice.Intn(4); n > 0; n-- {
		out += g.one("a", "b", "z", "a-c", "A-Z", "a-z", "0-9", "-", "^", "]", "[", "&&", "--", "~~", `\d`, `\W`, `\s`, `\pL`, `\PN`,
			`\p{Greek}`, "[:alpha:]", "[:^digit:]", "[:word:]", "[:nope:]", `\]`, `\-`, `\n`, `\x{fc}`, "ü", "α-ω", "k", "K", "z-a", `\b`, "{", "|", ".")
	}
	if g.dice.Intn(40) == 0 {
		return out
	}
	return out + "]"
}

// samples makes texts that a tree matches, and some that are a character away from that.
func samples(dice *rand.Rand, tree *syntax.Regexp) []string {
	var texts []string
	seen := map[string]bool{}
	for range 6 {
		text := []rune(sample(dice, tree))
		if dice.Intn(2) == 0 && len(text) > 0 {
			i := dice.Intn(len(text))
			switch dice.Intn(3) {
			case 0:
				text = append(text[:i], text[i+1:]...)
			case 1:
				text[i] = unicode.SimpleFold(text[i])
			default:
				text[i] = []rune("a-1\nKü")[dice.Intn(6)]
			}
		}
		if short := string(text); len(text) <= 40 && !seen[short] {
			seen[short] = true
			texts = append(texts, short)
		}
	}
	return texts
}

func sample(dice *rand.Rand, re *syntax.Regexp) string {
	times := func(min, max int) string {
		if max < 0 || max > min+3 {
			max = min + 3
		}
		out := ""
		for n := min + dice.Intn(max-min+1); n > 0 && len(out) < 100; n-- {
			out += sample(dice, re.Sub[0])
		}
		return out
	}
	switch re.Op {
	case syntax.OpLiteral:
		text := []rune(string(re.Rune))
		if re.Flags&syntax.FoldCase != 0 {
			for i := range text {
				for n := dice.Intn(3); n > 0; n-- {
					text[i] = unicode.SimpleFold(text[i])
				}
			}
		}
		return string(text)
	case syntax.OpCharClass:
		if len(re.Rune) == 0 {
			return ""
		}
		i := dice.Intn(len(re.Rune)/2) * 2
		if dice.Intn(2) == 0 {
			i = 0
		}
		c := re.Rune[i] + rune(dice.Intn(int(re.Rune[i+1]-re.Rune[i])+1))
		if dice.Intn(2) == 0 {
			c = min(re.Rune[i]+rune(dice.Intn(3)), re.Rune[i+1])
		}
		if 0xd800 <= c && c < 0xe000 {
			c = 'x'
		}
		return string(c)
	case syntax.OpAnyChar:
		return []string{"a", "\n", "ü", "漢", "7"}[dice.Intn(5)]
	case syntax.OpAnyCharNotNL:
		return []string{"a", "-", "ü"}[dice.Intn(3)]
	case syntax.OpCapture:
		return sample(dice, re.Sub[0])
	case syntax.OpStar:
		return times(0, -1)
	case syntax.OpPlus:
		return times(1, -1)
	case syntax.OpQuest:
		return times(0, 1)
	case syntax.OpRepeat:
		return times(re.Min, re.Max)
	case syntax.OpConcat:
		out := ""
		for _, sub := range re.Sub {
			out += sample(dice, sub)
		}
		return out
	case syntax.OpAlternate:
		return sample(dice, re.Sub[dice.Intn(len(re.Sub))])
	}
	return ""
}

// handwritten are the patterns that other libraries read in other ways, that are nearly right, and that are at a bound.
func handwritten() []string {
	out := strings.Split(strings.TrimSpace(list), "\n")
	out = append(out, "", " ", "a\nb", "(?m)^a$\n^b$", "a|\n", "\ufffd", "[\n]", "\t")
	repeat := strings.Repeat
	for _, n := range []int{998, 999, 1000, 1001} {
		out = append(out, "a{"+strconv.Itoa(n)+"}", "a{0,"+strconv.Itoa(n)+"}", "a{"+strconv.Itoa(n)+",}",
			repeat("(", n)+"a"+repeat(")", n), repeat("(?:", n)+"a"+repeat(")", n), repeat("(", n)+"a*"+repeat(")", n))
	}
	out = append(out, repeat("(?:a|b*", 200)+repeat(")", 200), repeat("a?", 100)+repeat("a", 100), repeat("(a?)", 100),
		repeat("(", 3000), repeat("a|", 500)+"b", repeat(`[\pL\d]`, 50))
	// Every class there is, beside characters of its own.
	for _, name := range slices.Sorted(maps.Keys(unicode.Categories)) {
		out = append(out, `\p{`+name+`}+`, `(?i)[^\p{`+name+`}]`)
	}
	for _, name := range slices.Sorted(maps.Keys(unicode.Scripts)) {
		out = append(out, `\p{`+name+`}+`, `(?i)\P{`+name+`}*`)
	}
	for _, group := range strings.Fields("alnum alpha ascii blank cntrl digit graph lower print punct space upper word xdigit") {
		out = append(out, "[[:"+group+":]]", "[[:^"+group+":]]", "(?i)[[:"+group+":]]", "(?i)[^[:^"+group+":]]")
	}
	// Every escape and every flag of one character.
	for c := '!'; c <= '~'; c++ {
		out = append(out, `\`+string(c), `[\`+string(c)+`]`, `a\`+string(c)+`1b`, `(?`+string(c)+`)a`, `(?`+string(c)+`:a)`, `[`+string(c)+`]`,
			`[a`+string(c)+`b]`, `a`+string(c), string(c)+`a`, `(?i)`+string(c))
	}
	// Every ring of cases that is longer than two, and both ways of the others of the first thousand characters.
	for c := rune(0); c <= unicode.MaxRune; c++ {
		if next := unicode.SimpleFold(c); next != c && (c < 0x180 || unicode.SimpleFold(next) != c) {
			out = append(out, `(?i)`+string(c), `(?i)[^`+string(c)+`]`)
		}
	}
	return out
}

const list = `
\Qa.b\E
\Qa.b
\Q
\Q\E
\Q\Q\E
\E
\Q*\E+
\Qab\E*
\Qab\E{2}
(\Qa)\E)
\Qa\Eb\Qc\E
(?i)\Qk\E
a\Q\E*
a*\Q\E*
a*(?i)*
a(?i)*
\pL+
\pL
\PL
\pN\pN
\p{L}
\p{Lu}
\P{Lu}
\p{^Lu}
\P{^Lu}
\p{Greek}
\p{greek}
\p{Letter}
\p{Old_Italic}
\p{Any}
\P{Any}
\p{any}
\p{ASCII}
\p{Assigned}
\p{Cn}
\p{LC}
\p{}
\p{^}
\p
\p{
\p{L
\pü
\p^L
[\p{Lu}
[\pL\pN]
[^\pL]
[^\PL]
(?i)\p{Lu}
(?i)\p{Ll}
(?i)\P{Lu}
(?i)[\p{Lu}]
(?i)[^\p{Lu}]
(?i)\p{Greek}
(?i)\p{Latin}
z{1
z{,2}
z{1,
z{1,a}
z{1 }
z{ 1}
z{}
z{,}
z{a}
{
{1}
{,1}
{1
}
a}
a{1}}
a{01}
a{0,01}
a{00}
a{0}
a{0,0}
a{0,}
a{1,0}
a{2,1}
a{1000}
a{1001}
a{1001,}
a{1,1001}
a{99999999999999999999}
a{1,99999999999999999999}
a{100000000}
a{100000001}
(a{10}){10}
(a{10}){100}
(a{10}){101}
((a{10}){10}){10}
((a{10}){10}){11}
(a{1000}){1}
(a{1000}){1,2}
(a{1000}){0,1}
(a{1000}){0,2}
(a{1000}){0}
((a{0}){1000}){1000}
((a{0,}){1000}){1000}
(a{500,})*{2}
(?:a{500,}){2}
(?:a{500,}){3}
((a*){30}){33}
((a*){30}){34}
(?:){1000}
(?:(?:){100}){10}
(?:|a){3}
(?:a|){0,3}
(?:^){5}a
(?:\b){3}a(?:\b){3}
[[]|z
[]]
[]a]
[^]]
[^]a]
[]
[^]
[[]
[[
[
[a
[a-
[a-]
[-a]
[a-b-c]
[a-b-]
[--a]
[--]
[a--]
[---]
[!--]
[a-\d]
[\d-a]
[\d-z]
[z-\d]
[a-[:alpha:]]
[[:alpha:]-z]
[a&&b]
[&&]
[a-z&&[^b]]
[a--b]
[a~~b]
[~~]
[[a]b]
[[a-c]]
[a[b]
[[:alpha:]
[[:alpha:
[[:alpha
[[:]
[[:]]
[[:x:]]
[[:^x:]]
[[::]]
[:alpha:]
[[:alpha:][:digit:]]
[[.a.]]
[[=a=]]
[[:word:]]
[\]]
[\[]
[\^a]
[a^]
[\-]
[a\-z]
[\a\f\v\t\r\n]
[\b]
[\B]
[\A]
[\z]
[\Q]\E]
[\x41-\x43]
[\x{41}-\x{43}]
[\101-\103]
[\0]
[\1]
[\8]
[z-a]
[b-a]
[ü-a]
[\x{10ffff}]
[^\x00-\x{10FFFF}]
[^\x00-\x{10FFFF}]*
[\x00-\x{10FFFF}]
[\d\D]
[^\d\D]
[\s\S]
[\w\W]+
[^\w]
(?i)[a-z]
(?i)[A-Z]
(?i)[^a-z]
(?i)[k]
(?i)[^k]
(?i)[\x{212a}]
(?i)[ſ]
(?i)\w
(?i)\W
(?i)[\w]
(?i)[^\w]
(?i)[\W]
(?i)\d
(?i)[[:upper:]]
(?i)[[:lower:]]
(?i)[^[:upper:]]
(?i)[[:^upper:]]
\172
\0172
\141\142
\01
\08
\0
\00
\000
\0000
\7
\77
\777
\1
\12
\18
\8
\9
\x
\x4
\x41
\x4g
\xg
\x{
\x{}
\x{41
\x{41}
\x{ 41}
\x{4 1}
\x{000000000041}
\x{10ffff}
\x{110000}
\x{fffffffffffffffff}
(\x{d800}|a)
[\x{d800}-\x{dfff}]
[^\x{d800}-\x{dfff}]
\xü
\x4ü
\u0041
\U00000041
\cA
\e
\h
\R
\X
\K
\G
\N
\Z
\C
\z
\A
\Aa\z
\az
a\z
a\zb
a\Ab
\<a\>
\<
\>
\%
\"
\'
\/
\@
\#
\ü
\_
\-
\
a\
(\
[\
(
)
a)
a)b
a)|(b
)(
()
(())
(|)
(|a)
(a|)
(a||b)
|
||
a|
|a
a||b
(?:)
(?:|)
(?
(?i
(?i)
(?i:
(?i:a
(?i:a)
(?-i:a)
(?i-i:A)
(?i)a(?-i)b
(?i)a|b
(?i:a)b
((?i)a)b
((?i)a|b)c
(?i)(?-i:a)b
(?im-s)a.
(?ims)^a.$
(?s-m)a.b
(?-s).
(?-s)a.b
(?-s:.)|.
(?s).
(?m)^
(?m)a$
(?m)^a$
(?m)a$\nb
(?m:^)a
(?m)\Aa\z
(?-m)a$
(?U)a+
(?U)a+?
(?U:a*)b
(?--i)a
(?i--i)a
(?-)a
(?)a
(?i-)a
(?:-)a
(?x)a
(?x: a )
(?#c)a
(?=a)
(?!a)
(?<=a)b
(?<!a)b
(?>a)
(?|a)
(?R)
(?1)
(?&a)
(?P=a)
(?P>a)
(?P<n>a)
(?<n>a)
(?'n'a)
(?P<n>a)(?P<m>b)
(?P<n>a)(?P<n>b)
(?<n>a)|(?P<n>b)
(?P<n
(?P<n>
(?P<>a)
(?<>a)
(?P<1>a)
(?P<a-b>a)
(?P<ü>a)
(?P<
(?<
(?P
(?Pa)
(?<a
(?P<n>a
(?iP<n>a)
x**
x*+
x+*
x??
x???
x*??
x{2}{3}
x{2}*
x*{2}
x{2}?
x{2}??
x{2}?{3}
x{,2}*
x{,2}{2}
(x*)*
(x*)+
(x+)?
(?:x*)*
(?:x*){2}
(?:x?)*y
*
+
?
*a
+a
?a
a|*
(*)
(+a)
(?:*)
(?i)*
(?i)?a
^*
^+
^?
$*
$+a
^{2}
\b*
\b+a
\B?
(^)*a
(^|b)*a
(a|^)*
($)*
(a$)*
(a$|b)*
a^b
a$b
^a$
^^a$$
$a
a^
$^
^$
(^a|b)$
.
..
.*
.+
.?
.{2}
.*.*
.*a.*
a.*
a.+
.*a
.+a
.*a.*b.*
a.b
a.*b
eu-.*
eu-west-[0-9]+
eu-west-\d
eu|us
eu-west-1|eu-west-2
(eu|us)-.*
(eu|EU)
(?i)eu
(?i)EU-.*
(?i)eu|(?i)us
(?i:eu)-west
(?i)ü
(?i)straße
(?i)STRASSE
(?i)σ
(?i)k
(?i)K
(?i)\x{212a}
(?i)ſ
(?i)ß
(?i)ẞ
(?i)ǆ
(?i)ǅ
(?i)é
(?i)漢
(?i)İ
(?i)ı
(?i)i
(?i)θ
(?i)ϴ
(?i)Ω
(?i)å
(?i)𞤀
(?i)ᲀ
(?i)Ꭰ
(?i)ꭰ
\d
\d+
[0-9]
\D
\w
\W
\s
\S
\w\d
\bb\b
a\bb
a\b
\ba
\B
\b
^\b
\Ba
a\B
\bü
ü\b
\Bü\B
(a|b)*c?
(a|ab)(c|bcd)(d*)
(a*)(a|aa)
(a*)*
(a*)+
(a|b)*abb
a{2}
a{2,}
a{2,3}
a{0,2}b
(ab){2}
(ab){1,2}a
[ab]{2}
(a|b|ab){3}
&&
a&&b
~
"
'
/a/
a b
#
a#b
é
é
[é]
[é]
🙂
.😀
[😀]
[😀-😂]
`
