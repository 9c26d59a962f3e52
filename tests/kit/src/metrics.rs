//! Values from a daemon's Prometheus endpoint.

use anyhow::{Context, Result};

/// Values of one scrape of `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    samples: Vec<(String, f64)>,
}

impl Readings {
    /// Fetches and parses the metrics of a daemon.
    ///
    /// # Errors
    /// Fails if the daemon does not respond or a line is not in Prometheus' text format.
    pub fn scrape(address: &str) -> Result<Self> {
        let url = format!("http://{address}/metrics");
        let mut response = ureq::get(&url).call().with_context(|| format!("get {url}"))?;
        Self::parse(&response.body_mut().read_to_string().with_context(|| format!("read {url}"))?)
    }

    /// Parses metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Fails if a line is not in Prometheus' text format.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').with_context(|| format!("metrics line {line:?}"))?;
            Ok((series.to_owned(), value.parse().with_context(|| format!("metrics line {line:?}"))?))
        });
        Ok(Self { samples: samples.collect::<Result<_>>()? })
    }

    /// Returns the sum over every series of `name` that has all of `labels`; 0 if there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let fits = |series: &str| {
            let (own, rest) = series.split_once('{').unwrap_or((series, ""));
            own == name && wanted.iter().all(|label| rest.contains(label.as_str()))
        };
        self.samples.iter().filter(|(series, _)| fits(series)).map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_over_the_labels_that_were_not_asked_for() {
        let page = "# HELP x y\nx{place=\"hub\",m=\"a\"} 2\nx{place=\"hub\",m=\"b\"} 3\nx{place=\"device\"} 10\nxy 7\n";
        let readings = Readings::parse(page).unwrap();
        assert_eq!(readings.sum("x", &[("place", "hub")]), 5.0);
        assert_eq!(readings.sum("x", &[]), 15.0);
        assert_eq!(readings.sum("z", &[]), 0.0);
    }
}
